"""From a user's source to a plan: one row per detection, before any pixel is decoded.

A folder, a manifest (Parquet, CSV, JSON Lines), videos, an AMI database, or a finished run. It
promises rows in a fixed order, with an id each, and an error row for what cannot be used.
It may import ``pipelines.images`` and the contracts.
"""
