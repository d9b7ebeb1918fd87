"""Search: candidates by FAISS, scores by the exact vectors, filters by DuckDB, one snapshot at a time.

It may import ``index.storage``.
"""
