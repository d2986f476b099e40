"""The audit: what is left of the forgotten, what it cost elsewhere, and what could bring it back.

evidence   samples of a row, and what all rows are measured against
family     every row of one model family
judges     who judges, and how independent of the guide
notes      what should make a reader suspicious
resolution how many samples, and which differences are more than noise
certainty  how far a row is known
attacked   what attacks come to
guards     the seven ways in which a good number is false
verdict    three sentences; gates: conditions under which an audit fails
record     one model against its original, and audit.json
"""

from unflow.evidence.auditing.attacked import Attacks, attack_one, compare_attacks
from unflow.evidence.auditing.evidence import Entry, Evidence, Judge, Samples, draw_samples, target_samples
from unflow.evidence.auditing.family import FamilyAudit, audit_family
from unflow.evidence.auditing.gates import Gate, list_failures
from unflow.evidence.auditing.judges import JUDGE_SEED_OFFSET, judge_record
from unflow.evidence.auditing.notes import find_notes
from unflow.evidence.auditing.record import (
    MIN_SAMPLES,
    Audit,
    Family,
    Judges,
    Provenance,
    RealData,
    References,
    assemble_audit,
    audit,
    describe,
)
from unflow.evidence.auditing.resolution import differences, samples_needed
from unflow.evidence.auditing.verdict import Verdict
from unflow.evidence.measures import MMD_ROWS
from unflow.evidence.row import REFERENCES, AuditRow

__all__ = [
    "JUDGE_SEED_OFFSET",
    "MIN_SAMPLES",
    "MMD_ROWS",
    "REFERENCES",
    "Attacks",
    "Audit",
    "AuditRow",
    "Entry",
    "Evidence",
    "Family",
    "FamilyAudit",
    "Gate",
    "Judge",
    "Judges",
    "Provenance",
    "RealData",
    "References",
    "Samples",
    "Verdict",
    "assemble_audit",
    "attack_one",
    "audit",
    "audit_family",
    "compare_attacks",
    "describe",
    "differences",
    "draw_samples",
    "find_notes",
    "judge_record",
    "list_failures",
    "samples_needed",
    "target_samples",
]
