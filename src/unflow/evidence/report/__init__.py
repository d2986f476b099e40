"""Reports: one offline HTML page from a run folder. Reports read files and compute no metric."""

from unflow.evidence.report.compare import write_comparison
from unflow.evidence.report.page import write_report

__all__ = ["write_comparison", "write_report"]
