"""The default route by what is asked: short hard questions to the large model, short prose to the small.

Each question is shorter than the length threshold, so that only its words decide.
"""

import pytest

from windvane.core.analysis import analyze
from windvane.core.routing.presets import CODE, LARGE, LENGTH_THRESHOLD_CHARS, SMALL, default
from windvane.core.routing.table import NO_FACTS, RouteTable, first_match
from windvane.wire.chat_request import chat_request_of

HARD = [
    "Prove that the square root of 2 is irrational",
    "Prove that there are infinitely many primes",
    "Prove Fermat's little theorem",
    "Prove by induction that the sum of the first n integers is n(n+1)/2",
    "Derive the quadratic formula",
    "What is the derivative of the natural logarithm?",
    "Compute the determinant of a 3 by 3 matrix",
    "Is every continuous function differentiable? Give a proof or a counterexample.",
    "Explain why the halting problem is undecidable",
    "Analyze and compare the two strategies",
    "Prove that every group of prime order is cyclic",
    "Design a lock-free queue and prove it correct",
    "Démontre que la racine carrée de 2 est irrationnelle",
    "Démontre qu'il existe une infinité de nombres premiers",
    "Résous l'équation 3x + 5 = 20",
    "Calcule la dérivée de la fonction logarithme",
    "Explique étape par étape pourquoi le ciel est bleu",
    "Beweise, dass die Wurzel aus 2 irrational ist",
    "Zeige mit einem Beweis, dass es unendlich viele Primzahlen gibt",
    "Berechne das Integral der Funktion 1/x",
    "Löse die Gleichung 3x + 5 = 20",
    "Beweise den Satz des Pythagoras",
    "Erkläre und vergleiche die beiden Verfahren",
    "Demuestra que la raíz cuadrada de 2 es irracional",
    "Demuestra que hay infinitos números primos",
    "Resuelve la ecuación 3x + 5 = 20",
    "Calcula la derivada del logaritmo",
    "Explica paso a paso por qué el cielo es azul",
    "Dimostra che la radice quadrata di 2 è irrazionale",
    "Dimostra che esistono infiniti numeri primi",
    "Risolvi l'equazione 3x + 5 = 20",
    "Calcola la derivata del logaritmo",
    "Spiega passo dopo passo perché il cielo è blu",
    "Prove que a raiz quadrada de 2 é irracional",
    "Demonstre que existem infinitos números primos",
    "Resolva a equação 3x + 5 = 20",
    "Calcule a derivada do logaritmo",
    "Explique passo a passo por que o céu é azul",
]
ABOUT_CODE = [
    "Debug this: a segfault in my C program",
    "Why does my Python program leak memory?",
    "Debug this SQL query for me",
    "Débogue ce programme Python",
    "Debugge dieses Python-Programm, bitte: Python wird langsam, das Programm auch",
    "Depura este programa en Python",
    "Fai il debug di questo programma Python",
    "Depure este programa em Python",
]
EASY = [
    "Hello",
    "What is the capital of France?",
    "Explain rain",
    "Why is the sky blue?",
    "Can you prove that you are not a robot?",
    "Write a poem about the sea",
    "Which wine is a prime choice for dinner?",
    "Solve my problem with the landlord, please",
    "I need proof of purchase for my prime membership",
    "What is the root cause of the delay?",
    "Is this seat even free, or is it odd to ask?",
    "Our program starts on Monday at nine; write an invitation",
    "My query is about order 1234: where is it?",
    "Translate 'the house is small' into German",
    "Give me three names for a black cat",
    "She is irrational and I love her infinitely; write that nicely",
    "The group is an integral part of our family",
    "Debug my love life",
    "Calculate the tip on 45 dollars",
    "Calculate the cost of an induction hob",
    "Solve this riddle: what has keys and opens no door?",
    "Bonjour, comment ça va ?",
    "Quelle est la capitale de l'Italie ?",
    "Explique-moi la pluie",
    "Le premier ministre est en retard : écris un titre",
    "Il faut une preuve d'achat pour le remboursement",
    "Calcule le prix des premiers billets",
    "Prouve que c'est un facteur déterminant",
    "Écris un poème sur la mer",
    "Guten Tag, wie geht es dir?",
    "Was ist die Hauptstadt von Italien?",
    "Erkläre den Regen",
    "Die Funktion des Herzens in einem Satz, bitte",
    "Wie lange dauert das Programm heute Abend?",
    "Löse das Problem an der Wurzel",
    "Beweise, dass du kein Roboter bist",
    "Schreibe ein Gedicht über das Meer",
    "Hola, ¿cómo estás?",
    "¿Cuál es la capital de Italia?",
    "Explica la lluvia",
    "Mi primo viene a cenar: escribe una invitación",
    "Calcula cuántos primos vienen a cenar",
    "Demuestra que no eres un robot",
    "Escribe un poema sobre el mar",
    "Vengo sin dinero y sin tiempo",
    "Ciao, come stai?",
    "Qual è la capitale della Francia?",
    "Spiega la pioggia",
    "Il primo treno parte alle otto: scrivi un messaggio",
    "Calcola i primi costi della casa",
    "Dimostra che non sei un robot",
    "Scrivi una poesia sul mare",
    "Olá, tudo bem?",
    "Qual é a capital da Itália?",
    "Explique a chuva",
    "Meu primo vem jantar: escreva um convite",
    "Escreva um poema sobre o mar",
    "Demonstre que você não é um robô",
    "Prove este vinho e diga se gosta",
]


def model_for(question: str) -> str:
    """The first model that the default route asks."""
    assert len(question) <= LENGTH_THRESHOLD_CHARS
    body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
    route, rules = RouteTable.of({"auto": default()}).routes["auto"]
    place = first_match(rules, analyze(chat_request_of(body)), NO_FACTS)
    return (route.default_models if place is None else rules[place - 1].rule.models)[0]


@pytest.mark.parametrize("question", HARD)
def test_a_short_hard_question_is_asked_of_the_large_model(question: str) -> None:
    assert model_for(question) == LARGE


@pytest.mark.parametrize("question", ABOUT_CODE)
def test_a_short_question_about_code_is_asked_of_the_model_for_code(question: str) -> None:
    assert model_for(question) == CODE


@pytest.mark.parametrize("question", EASY)
def test_short_prose_is_asked_of_the_small_model(question: str) -> None:
    assert model_for(question) == SMALL
