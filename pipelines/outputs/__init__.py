"""Files derived from the committed rows: the manifest, HDF5 files, clip files.

It promises that every file can be derived again from the Parquet files alone, and is hashed in a
manifest that is written last. It may import the contracts.
"""
