"""A canary: a candidate beside the served model, first in the shadow, then for a share of the clients, then a verdict.

    args.py         what it may do, and the rule of its verdict
    sticky.py       what stays on one version
    observed.py     what a version did with a request, and two of them compared
    rule.py         the test: from comparisons to a verdict
    course.py       the course of a canary: a fold over comparisons, in the endpoint and in a replay
    journal.py      the course on disk
    judge.py        who keeps the journal and acts on the verdict, one for all ingress replicas
    traffic.py      one ingress replica's part: who answers, and the other version's answer in the shadow

No Ray here: serving/app.py puts the judge into a deployment of its own.
"""
