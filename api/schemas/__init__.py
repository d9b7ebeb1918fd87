"""What goes over the wire: requests, answers and their examples."""
