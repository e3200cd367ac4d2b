"""Where results are kept: a study is a folder, a result is a folder in it, and the files are the truth.

`study.Study` writes and finds results, `folder` knows the files of one result, `index` makes finding fast and can be
lost without harm, `atomic` writes any file so that a reader sees the old one or the new one, never half of one.
"""

from cutaway.store.index import Entry
from cutaway.store.study import DamagedResult, Study

__all__ = ["DamagedResult", "Entry", "Study"]
