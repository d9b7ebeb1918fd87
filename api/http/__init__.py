"""The layers between the network and the routes: errors, keys, limits, logs, metrics.

It knows nothing of an index.
"""
