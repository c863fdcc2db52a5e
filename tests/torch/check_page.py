"""The script of docs/torch.md runs as printed. check_page.py LOCKSTEP"""

import pathlib
import re
import subprocess
import sys
import tempfile

page = pathlib.Path(__file__).parents[2] / "docs" / "torch.md"
script = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL).group(1)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "train.py")
    path.write_text(script)
    command = [sys.argv[1], "run", "-n", "2", "--", sys.executable, path]
    done = subprocess.run(command, capture_output=True, text=True)
output = done.stdout + done.stderr
assert done.returncode == 0, output
losses = dict(re.findall(r"rank (\d): loss (\d+\.\d+)", output))
assert sorted(losses) == ["0", "1"], output
assert all(float(loss) < 1 for loss in losses.values()), output
print(losses)
