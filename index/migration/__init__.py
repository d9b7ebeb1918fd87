"""What changes where a run takes the place of another that an older model made.

``report`` is what is found out, as records; ``rows`` the rows of both runs beside each other;
``labels``, ``spaces``, ``links`` and ``costs`` each measure one thing; ``verdict`` holds it
against limits; ``compare`` does all of it; ``page`` and ``plots`` show it; ``beside`` builds the
index that may take the old one's place.
"""
