"""`remora canary`: an endpoint's last canary, and what another rule would have decided.

remora canary show
remora canary replay remora --rule comparisons=200 looks=10 first_token=1.2
"""

from __future__ import annotations

import json
from dataclasses import asdict

from remora.commands.endpoint_options import CanaryOptions
from remora.commands.saying import say
from remora.errors import SpecError
from remora.serving.canary.course import Course, course_of
from remora.serving.canary.journal import Canary, last
from remora.serving.canary.wording import canary_lines, replayed_lines
from remora.spec.strict_yaml import parse_yaml


def canary(options: CanaryOptions) -> None:
    """Print what was asked for."""
    if options.what == "show" and options.rule:
        raise SpecError("--rule: show tells what happened; next: remora canary replay --rule NAME=VALUE")
    found = last(options.runs, options.endpoint)
    if options.what == "replay":
        course = replayed(found, options.rule)
        if options.json:
            looks = [look.as_json() for look in course.looks]
            rule = course.plan.rule.model_dump(mode="json")
            counted = len(course.comparisons)
            say(json.dumps({"rule": rule, "verdict": course.verdict, "comparisons": counted, "looks": looks}, indent=1))
        else:
            say(*replayed_lines(found, course))
    elif options.json:
        say(json.dumps({**asdict(found), "plan": found.plan.model_dump(mode="json")}, indent=1))
    else:
        say(*canary_lines(found))


def replayed(found: Canary, rule: tuple[str, ...]) -> Course:
    """What a canary's comparisons say under its rule with these settings (`alpha=0.01`) changed.

    Raises:
        SpecError: a setting that does not exist, or a value that breaks a rule.
    """
    return course_of(found.plan.with_rule(rule_settings(rule)), found.comparisons)


def rule_settings(given: tuple[str, ...]) -> dict[str, object]:
    """`alpha=0.01` as a setting.

    Raises:
        SpecError: no `=` in it.
    """
    settings: dict[str, object] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise SpecError(f"--rule takes settings as NAME=VALUE: alpha=0.01; found {each!r}")
        settings[name] = parse_yaml(value, f"--rule {name}")[0]
    return settings
