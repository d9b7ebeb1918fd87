"""Who does the work: planned blocks to written files, each row exactly once.

One contract (``base``), two executors that keep it: threads in this process (``local``) and
Ray Data (``ray_*``). It promises that either continues what the other began, and that a standstill
ends with a reason. It may import ``pipelines.engines`` and all below.
"""
