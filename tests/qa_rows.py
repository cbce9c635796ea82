"""Ten questions whose answer is the first word of their context."""

ROWS = [
    {
        "id": str(number),
        "title": "t",
        "context": "Ada met Bob in Rome",
        "question": "Who?",
        "answers": {"text": ["Ada"], "answer_start": [0]},
    }
    for number in range(10)
]
