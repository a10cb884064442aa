"""The page for people, `report.html`."""

from orchestrator.report.page import write_report

__all__ = ["write_report"]
