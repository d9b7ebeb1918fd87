"""What a run says beside what an AMI database says: compared, and written back."""

from __future__ import annotations

import pipelines.database  # noqa: F401  (says what to install where SQLAlchemy is missing)
