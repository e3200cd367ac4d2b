"""Makes the README's picture by running the README's own Python: `python docs/images/make.py`."""

import os
import re
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(compile(code, "README.md", "exec"), {})
        shutil.copy("why.png", ROOT / "docs" / "images" / "chelsea.png")
