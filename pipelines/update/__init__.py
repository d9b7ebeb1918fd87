"""``extract --update``: a run brought up to date with a source that has grown or changed.

What is new or changed is answered in a folder of its own inside the run, and then becomes part of the
run at once: until its new manifest is written, the run is what it was.
"""
