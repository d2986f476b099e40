"""A new metric is one function and one line; audit.json, gates, terminal and report then have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import unflow

FUNCTION = '''

def worst_case(probabilities, forget):
    """Largest probability that the judge gives to the forgotten classes in any sample."""
    return float(probabilities[:, list(forget)].sum(1).max())
'''
LINE = (
    '    Measure("worst_case", "worst case", "lower", "Largest probability of a forgotten class.", '
    "lambda o: metrics.forgetting.worst_case(o.probabilities, o.forget), terminal=True, page=True),\n"
)
END_OF_THE_TABLE = ')  # fmt: skip\n"""Every number that is computed from the samples of a row."""'

AUDIT = """
import json
import torch
from torch import nn
import unflow as uf
from unflow.data import LabelledData
from unflow.evidence.auditing import Gate
from unflow.evidence.report import write_report
from unflow.evidence.report.terminal import print_audit


class Sides(nn.Module):
    def features(self, x):
        return x

    def forward(self, x):
        return 4 * torch.cat([-x[:, :1], x[:, :1]], 1)


def generator(shift):
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.eye(2))
        net.bias.fill_(shift)
    return uf.Generator(net, (2,))


def points(seed):
    x = torch.randn(300, 2, generator=uf.stream(seed))
    return LabelledData("points", x, (x[:, 0] > 0).long(), ["left", "right"])


judge = uf.Classifier(Sides(), ["left", "right"])
audit = uf.audit(
    generator(-1.0), original=generator(0.0), judge=judge, forget=[1], held_out=points(0),
    training=points(1), n=200, repeats=0, out="audit",
)
row = audit.row()
print_audit(audit.as_dict())
write_report("audit")
stored = json.load(open("audit/audit.json"))["rows"][1]
assert stored["worst_case"] == row.require("worst_case") > 0.5
assert Gate.parse("worst_case>0.5").fails(row)
assert not Gate.parse("worst_case>2").fails(row)
assert "worst case" in open("audit/report.html").read()
"""


def test_a_metric_costs_one_function_and_one_line(tmp_path: Path) -> None:
    package = tmp_path / "src" / "unflow"
    shutil.copytree(Path(unflow.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    forgetting, measures = (package / "evidence" / name for name in ("metrics/forgetting.py", "measures.py"))
    forgetting.write_text(forgetting.read_text() + FUNCTION)
    table = measures.read_text()
    assert table.count(END_OF_THE_TABLE) == 1
    measures.write_text(table.replace(END_OF_THE_TABLE, LINE + END_OF_THE_TABLE))
    done = subprocess.run(
        [sys.executable, "-c", AUDIT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "worst case" in done.stdout
