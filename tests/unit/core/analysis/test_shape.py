"""What a text looks like: tables of texts that are, and texts that are not."""

import pytest

from windvane.core.analysis import lexicon
from windvane.core.analysis.shape import shape_of

CODE = [
    "```\nx\n```",
    "Fix this: def add(a, b): return a + b",
    "In C++, what does a << b do?",
    "What does `a << b` mean in C++?",
    "std::cout << x << std::endl; // why does this print(1) twice",
    "SELECT name FROM users WHERE id = 3",
    "for (;;) { total(); }",
    "import os\nprint(os.getcwd())",
    "Write a python function that reverses a list",
    "Refactor this javascript code please",
    "console.log(a); foo();",
    "Why does `len(x)` fail in this function?",
    "#include <stdio.h>\nint main() { return 0; }",
    "Schreibe eine Python Funktion, die Primzahlen findet",
    "How does `list.sort()` work?",
    "Use `ls -la` to list",
    "Rename `foo` to `bar`",
    "I can`t see why `x += 1` fails",
    "Write a function that reverses a list in java",
    "Convert this Java class to Kotlin",
    "How do I write a for loop in Rust?",
    "Why do I get a KeyError in Python?",
    "how to center a div in css",
    "Kann man in Python Listen sortieren?",
    "Trie une liste en Python",
    "Ordena uma lista em Python",
    "Sort a list of pairs using C++",
    "Fix this bug: TypeError: undefined is not a function",
    "public static void main(String[] args)",
]
NOT_CODE = [
    "",
    "Hello",
    "What is the best class of wine to import into the EU?",
    "Please return to class after the import of goods.",
    "The python is a large snake.",
    "Write a poem about the sea (short)",
    "Il a dit : << bonjour >> et il est parti",
    "Her bug bites hurt",
    "I select the first one from the list",
    "What is a function in society?",
    "1 < 2 and 3 > 2",
    "I don`t know what`s wrong with the dog",
    "Translate `the house is small` into German",
    "It is 5` high and 3` wide",
    "Call the labels ``soft'' (``silver'') or ``hard'' (``gold'')",
    "Is it ``soft''/``hard''?",
    "What is the capital of Java island?",
    "What is the weather in Java?",
    "List the volcanoes in Java",
    "We return from Java and import coffee",
    "My car is covered in rust",
    "A ring set in ruby, and one in gold",
    "What is the SWIFT code of my bank?",
    "Is Python a snake?",
    "Which snake lives in the python house?",
    "I am in a loop of bad habits",
]


@pytest.mark.parametrize("text", CODE)
def test_code(text: str) -> None:
    assert shape_of(text).has_code


@pytest.mark.parametrize("text", NOT_CODE)
def test_not_code(text: str) -> None:
    assert not shape_of(text).has_code


MATH = [
    "Compute the integral of x",
    "Solve the equation 3x + 5 = 20",
    r"\frac{1}{2}",
    "$$a+b$$",
    "∑ of all squares",
    "Is x ≤ 3?",
    "x^2 + y^2 = 1",
    "the probability theorem of Bayes",
    "Résoudre cette équation",
    "Löse die Gleichung",
    "Resuelve la ecuación",
]
NOT_MATH = [
    "",
    "Hello",
    "Solve my problem",
    "a matrix of films",
    "It costs $5 and $6",
    "Ce n'est pas égal",
    "C:\\temp",
]


@pytest.mark.parametrize("text", MATH)
def test_mathematics(text: str) -> None:
    assert shape_of(text).has_math


@pytest.mark.parametrize("text", NOT_MATH)
def test_not_mathematics(text: str) -> None:
    assert not shape_of(text).has_math


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("Hello there", 0),
        ("Explain this", 1),
        ("EXPLAIN, please: explain!", 1),
        ("Analyze and compare", 2),
        ("Think step by step", 1),
        ("Explain it step by step", 2),
        ("Give pros and cons", 1),
        ("Explique pourquoi", 2),
        ("Erkläre es Schritt für Schritt", 2),
        ("Explica paso a paso", 2),
        ("a step forward", 0),
        ("explained explanations", 0),
        ("whyever", 0),
    ],
)
def test_reasoning_words_are_counted_once_each(text: str, words: int) -> None:
    assert shape_of(text).reasoning_words == words


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of this country?", "en"),
        ("Quelle est la capitale du pays et pour qui?", "fr"),
        ("Was ist die Hauptstadt und wie komme ich mit dem Zug hin?", "de"),
        ("¿Cuál es la capital del país y cómo se llega con los trenes?", "es"),
        ("Qual è la capitale della Germania e come si arriva con il treno?", "it"),
        ("Qual é a capital do país e como você chega com os trens?", "pt"),
        ("Какая столица у этой страны?", "cyrillic"),
        ("法国的首都是哪里？", "han"),
        ("フランスの首都はどこですか", "japanese"),
        ("프랑스의 수도는 어디입니까", "hangul"),
        ("ما هي عاصمة فرنسا", "arabic"),
        ("Ποια είναι η πρωτεύουσα;", "greek"),
        ("xyzzy plugh", None),
        ("the", None),
        ("", None),
    ],
)
def test_the_language_of_a_text(text: str, language: str | None) -> None:
    assert shape_of(text).language == language


def test_the_script_of_a_text() -> None:
    scripts = {
        text: shape_of(text).script
        for text in ("abc", "é à", "мир", "世界", "せかい", "세계", "😀")
    }
    assert scripts == {
        "abc": "latin",
        "é à": "latin",
        "мир": "cyrillic",
        "世界": "han",
        "せかい": "japanese",
        "세계": "hangul",
        "😀": "latin",
    }


def test_one_foreign_letter_does_not_make_a_text_foreign() -> None:
    for text in ("Let α be the angle of the triangle", "What does 你 mean in this old song?"):
        assert (shape_of(text).script, shape_of(text).language) == ("latin", "en")
    assert shape_of("请用 Python 写一个函数 parse_json").script == "han"


@pytest.mark.parametrize(
    "text",
    [
        "Is it so?",
        "What is it",
        "Où est-ce",
        "Wie geht das",
        "¿Qué es?",
        "这是什么？",
        "How do I get there",
    ],
)
def test_a_question(text: str) -> None:
    assert shape_of(text).is_question


@pytest.mark.parametrize(
    "text", ["", "Write a poem about the sea", "Hello", "The weather is nice.", "I was there."]
)
def test_not_a_question(text: str) -> None:
    assert not shape_of(text).is_question


def test_the_tables_are_as_they_are_looked_up() -> None:
    assert all(len(table) < 256 for table in lexicon.TABLES)
    for character, signs in lexicon.CODE_SIGNS:
        assert all(character in sign for sign in signs)
    assert all(set(sign) & set("\\$^") for sign in lexicon.MATH_SIGNS)
