"""The evidence: metrics, attacks, audits, reports, and the papers made again."""
