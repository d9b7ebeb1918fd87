"""The command line: one module a group of commands, put together in ``main``.

A command reads its options, calls one function of another package, and shows what came of it. Nothing
heavy is imported before the command is known, so that ``onepass --help`` answers at once.
"""
