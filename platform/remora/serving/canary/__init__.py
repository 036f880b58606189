"""A canary: a candidate beside the served model, first in the shadow, then for a share of the clients, then a verdict.

    args.py         what it may do, and the rule of its verdict
    sticky.py       what stays on one version
    observed.py     what a version did with a request, and two of them compared
    rule.py         the test: from comparisons to a verdict
    course.py       the course of a canary: a fold over comparisons, in the endpoint and in a replay
    journal.py      the course on disk
    judge.py        who keeps the journal and acts on the verdict, one for all ingress replicas
    trial.py        the canary in the fleet (serving/fleet.py): up, its share, over or away
    candidate.py    from a model's name to a version that may take over
    traffic.py      one ingress replica's part: the other version's answer in the shadow
    told.py         what /version and /metrics say of it; wording.py: what `remora canary` prints

No Ray here: serving/app.py has the fleet and its trial in one replica.
"""
