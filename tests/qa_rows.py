"""Ten questions whose answer is their whole context."""

ROWS = [
    {
        "id": str(number),
        "title": "t",
        "context": "Ada",
        "question": "Who?",
        "answers": {"text": ["Ada"], "answer_start": [0]},
    }
    for number in range(10)
]
