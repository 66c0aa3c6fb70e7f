"""Every relative link in a Markdown file of the repository leads to a file that is there."""

import re
import subprocess
import sys
from pathlib import Path

files = subprocess.run(["git", "ls-files", "*.md"], check=True, capture_output=True, text=True)
broken = []
for page in map(Path, files.stdout.splitlines()):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
            broken.append(f"{page}: `{target}` does not exist")
print("\n".join(broken) or "all links lead somewhere")
sys.exit(bool(broken))
