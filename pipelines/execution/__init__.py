"""Where a run's work is done: planned blocks to written files, each row exactly once.

Nothing here decides what a row's answer is. No module that Ray's worker processes need may import
torch unless the work needs it.
"""
