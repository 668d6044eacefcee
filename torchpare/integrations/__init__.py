"""``update_epoch`` and ``step``, called from the training loops of other libraries: nobody has to remember them."""

from __future__ import annotations
