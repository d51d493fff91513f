"""A run's result as `result.json` holds it."""

from typing import Any

RESULT: dict[str, Any] = {
    "metric": "accuracy",
    "higher_is_better": True,
    "seeds": [0, 1],
    "verdict": "Distillation paid off.",
    "split": "test",
    "examples": 1821,
    "teacher": {
        "values": [0.915],
        "parameters": 22_713_216,
        "bytes": 90_852_864,
        "latency_ms": 12.345,
        "examples_per_second": 1234.5,
        "agreement": [1.0],
    },
    "student_alone": {
        "values": [0.80, 0.82],
        "parameters": 6_090,
        "bytes": 24_360,
        "latency_ms": 0.0123,
        "examples_per_second": 123456.7,
        "agreement": [0.9, 0.9],
    },
    "student_distilled": {
        "values": [0.9, 0.9],
        "parameters": 690,
        "bytes": 2_760,
        "latency_ms": 1.5,
        "examples_per_second": 10.0,
        "agreement": [0.95, 0.97],
    },
}
