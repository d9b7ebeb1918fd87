"""Images in, one forward pass, class and embedding out.

Start with ``detections`` (the table every stage reads and writes), ``run`` (the folder a
finished extraction leaves behind) and ``backbones.base`` (the one pass); ``extract``
joins them on Ray Data.
"""
