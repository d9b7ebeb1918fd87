"""The same service on Ray Serve: replicas of the app, segments searched in processes of their own."""
