"""The report: a run folder becomes one offline HTML page; reads files only, computes no metric."""

from unflow.evidence.report.compare import write_comparison
from unflow.evidence.report.page import write_report

__all__ = ["write_comparison", "write_report"]
