"""Forty prompts: one token to fifteen hundred, several languages and scripts, code, and prefixes in common."""

_SHORT = [
    "Hello",
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "1, 1, 2, 3, 5, 8, 13,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Die Würde des Menschen ist",
    "La vie est belle quand",
    "El perro corre por el parque y",
    "Сегодня хорошая погода, поэтому",
    "今日はいい天気ですね。",
    "你好，请介绍一下你自己。",
    "안녕하세요, 저는",
    "مرحبا، كيف حالك",
    "Η Αθήνα είναι η πρωτεύουσα",
    "🙂🎉 emoji are fun because 👩‍👩‍👧‍👦",
    "SELECT name, age FROM users WHERE",
    '{"name": "Ada", "born": 1815, "occupation":',
    "Water boils at 100 degrees",
    "To be, or not to be, that is the question:",
    "The quick brown fox jumps over the lazy dog. The quick brown",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
    "   leading spaces and\ttabs\n\n\nand newlines",
    "A",
    "Le chat est sur la table et",
    "#include <stdio.h>\n\nint main(void) {",
]

_STORY = (
    "The lighthouse keeper had three rules. First, the lamp must never go out. Second, every ship that passes is "
    "written into the book, with the hour and the weather. Third, nobody asks what lies under the stairs. "
    "For nineteen years she had kept all three, and the book had grown to forty volumes. "
)

_SYSTEM = (
    "<|im_start|>system\nYou are a careful assistant. Answer in one short paragraph, name your sources, say so when "
    "you do not know, and never invent a number. "
    + "If the question is about the weather, ask for the place first. " * 12
    + "<|im_end|>\n<|im_start|>user\n"
)

_QUESTIONS = [
    "Why is the sky blue?",
    "How do I cook rice?",
    "Who wrote Faust?",
    "What is a prime number?",
    "Why is the sky blue at noon and red at dusk?",
    "Wie spät ist es?",
    "What is 17 times 3?",
    "Name a river in Africa.",
]


def prompts() -> list[str]:
    """The same forty every time."""
    chats = [f"{_SYSTEM}{question}<|im_end|>\n<|im_start|>assistant\n" for question in _QUESTIONS]
    stories = [f"Volume {volume}. " + _STORY * repeats for volume, repeats in [(1, 4), (2, 6), (3, 8), (4, 24)]]
    return [*_SHORT, *chats, *stories, *(_STORY * repeats + "One night" for repeats in (4, 5))]
