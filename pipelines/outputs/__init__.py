"""What is made of the committed rows: the manifest, HDF5 files, clip files.

It promises that every file is derived again from the Parquet files alone and is hashed in a manifest
that is written last. It may import the contracts.
"""
