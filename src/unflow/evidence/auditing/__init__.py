"""The audit: how much of the forget set is left, what forgetting cost elsewhere, and what could undo it.

evidence        the samples of a row, and the reference sets of all rows
family          measures every row of one model family
certainty       confidence intervals of a row, and its two-sample tests
resolution      the number of samples, and the differences that exceed noise
judges          accuracy of a judge, and its independence of the guide
judge_training  trains and calibrates two judges
attacked        runs the attacks on the models
asked           asks conditional models for each condition
series          one request at several strengths
notes           findings that should make a reader suspicious
guards          checks for the seven ways in which a good number can be false
verdict         three sentences about a row
gates           conditions under which an audit fails
costs           seconds, steps and memory of a row
record          assembles an audit and writes audit.json
"""

from unflow.evidence.auditing.attacked import Attacks, attack_one, compare_attacks
from unflow.evidence.auditing.evidence import (
    Entry,
    Evidence,
    Judge,
    Samples,
    draw_samples,
    floor_samples,
    target_samples,
)
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
    "floor_samples",
    "judge_record",
    "list_failures",
    "samples_needed",
    "target_samples",
]
