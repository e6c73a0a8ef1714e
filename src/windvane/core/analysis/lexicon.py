"""The words and signs the analysis looks for, by what they mean.

One table a meaning, in the languages we serve (English, French, German, Spanish, Italian,
Portuguese). Words are lower case and whole; signs are looked for as they stand.
"""

REASONING_WORDS = frozenset(
    """
    analyze analyse analysis explain debug prove proof derive reason reasoning evaluate compare
    contrast justify infer deduce optimize critique assess investigate diagnose synthesize
    theorem why tradeoff tradeoffs trade-offs strategy architect architecture design
    analyser explique expliquer explique-moi démontre démontrer prouver justifier comparer pourquoi évaluer
    analysiere analysieren erkläre erklären beweise beweisen begründe vergleiche warum bewerte
    analiza analizar explica explicar demuestra demostrar justifica compara evalúa
    analizza spiega dimostra confronta valuta perché
    analise explique demonstre compare avalie porquê
    """.split()
)

REASONING_PHRASES = tuple(
    phrase.encode()
    for phrase in (
        "step by step",
        "step-by-step",
        "think through",
        "chain of thought",
        "pros and cons",
        "étape par étape",
        "schritt für schritt",
        "paso a paso",
        "passo a passo",
        "passo dopo passo",
    )
)

PHRASE_WORDS = frozenset("step think chain pros étape schritt paso passo step-by-step".split())
"""One word of each phrase: without any of them there is no need to look."""

MATH_WORDS = frozenset(
    """
    integral integrals derivative derivatives equation equations matrix matrices determinant
    eigenvalue eigenvalues eigenvector eigenvectors polynomial polynomials calculus theorem lemma
    corollary counterexample probability logarithm sqrt factorial modulo prime primes
    integer integers divisible irrational quadratic differentiable converges bijective injective
    surjective hypotenuse combinatorics algebra geometry trigonometry variance bayes
    solve compute calculate derive prove
    intégrale intégrales dérivée dérivées équation équations matrice polynôme polynômes
    probabilité probabilités théorème lemme logarithme irrationnel irrationnelle infinité
    résoudre résous résolvez calcule calculer calculez démontre démontrer démontrez prouve prouver
    gleichung gleichungen ableitung matrizen polynom polynome wahrscheinlichkeit
    logarithmus quadratwurzel primzahl primzahlen teilbar pythagoras
    löse lösen berechne berechnen beweis beweise beweisen
    ecuación ecuaciones derivada derivadas matriz polinomio polinomios probabilidad teorema logaritmo
    irracional infinitos resuelve resolver calcula calcular demuestra demostrar
    equazione equazioni derivata derivate integrale integrali probabilità irrazionale infiniti divisibile
    risolvi risolvere calcola calcolare dimostra dimostrare
    equação equações polinômio polinómio probabilidade divisível resolva demonstre demonstrar
    """.split()
)
"""Two of them make mathematics. One alone does not: a word to prove or to solve by is said of much
else, and so is a matrix. Left out is what stands beside another of them in plain prose: a proof (of
purchase, for a prime membership), or in French the word for primes (calculate the first costs)."""

MATH_SIGNS = ("\\frac", "\\int", "\\sum", "$$", "^2", "x^")
"""Each with a backslash, a dollar or a caret."""

MATH_CHARACTERS = "∑∫√≤≥∂"

CODE_WORDS = frozenset(
    """
    python javascript typescript java c++ c# golang rust kotlin swift ruby php sql html css bash
    regex regexp function functions compile compiler refactor unittest pytest api json yaml
    docker kubernetes git dataframe pandas numpy react django flask async await stacktrace
    traceback segfault nullpointerexception algorithm code coding script bug snippet codebase
    program query debug loop
    typeerror keyerror valueerror nameerror attributeerror indexerror importerror syntaxerror
    referenceerror
    fonction programme débogue déboguer funktion programm debugge debuggen código función programa
    depura depurar funzione codice programma função depure
    """.split()
)

CODE_WORDS_STRONG = frozenset(
    """
    python javascript typescript c++ c# golang sql regex refactor traceback stacktrace pytest
    dataframe segfault cout stdout println debug débogue déboguer debugge debuggen depura depurar
    depure kotlin php html css bash nullpointerexception
    typeerror keyerror valueerror nameerror attributeerror indexerror importerror syntaxerror
    referenceerror
    """.split()
)

CODE_LANGUAGES = frozenset(
    "python javascript typescript c++ c# golang kotlin php sql html css bash".split()
)
"""Languages to write in whose names, after one of `IN`, mean nothing else."""
CODE_LANGUAGES_TOO = frozenset("java rust swift ruby".split())
"""Those whose names do: another word of the field must stand beside."""
IN = tuple(word.encode() for word in "in into using en em".split())
"""What comes before the name of a language to write in."""

CODE_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{", (") {", "){")),
    (";", ("();",)),
    (":", ("):", "::")),
    ("<", ("</", "<<")),
    ("=", ("=> ",)),
    ("#", ("#include", "#!/")),
    ("(", ("console.log(", "print(", "main(")),
)
"""Signs that stand as they are, under a character that they have and prose seldom has."""

CODE_SIGN_WORDS = frozenset(
    "def class import return select fn const func void elif printf struct".split()
)
"""Words that code is made of: two of them, or one with another sign, make code."""

QUESTION_WORDS = frozenset(
    word.encode()
    for word in """
    what who when where which how why is are can could does do should
    quoi qui quand où quel quelle comment combien est-ce
    was wer wann wo welche wie
    qué quién cuándo dónde cuál cómo
    cosa chi quando dove quale come
    que quem onde qual
    """.split()
)
"""Words that open a question."""

LANGUAGE_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "en",
        frozenset("the and is of to in that it you for what how are with this can please".split()),
    ),
    (
        "fr",
        frozenset(
            "le les des est et une dans pour que qui vous je pas sur avec comment quelle quel du au"
            " ce cette sont mon moi explique".split()
        ),
    ),
    (
        "de",
        frozenset(
            "der die das und ist nicht ein eine ich wie für mit den was auf sie zu im von wir mir"
            " erkläre".split()
        ),
    ),
    (
        "es",
        frozenset(
            "el los las es una en por para qué cómo del con se su no lo como más cuál explica"
            " y".split()
        ),
    ),
    (
        "it",
        frozenset(
            "il gli è una di che per con non come sono della del nel questo perché cosa mi".split()
        ),
    ),
    (
        "pt",
        frozenset("os as é uma do da em para com não como você que qual são mais isso um".split()),
    ),
)
"""Common short words, by ISO 639-1 code; the language with the most hits wins."""


REASONING, PHRASE, MATH, CODE, CODE_STRONG, CODE_SIGN, CODE_LANGUAGE, LANGUAGE = range(8)
"""The place of each table in a text's counts; those of the languages are the last, from `LANGUAGE` on."""

LANGUAGES = tuple(language for language, _ in LANGUAGE_WORDS)

SIGN_TABLES = (
    REASONING_WORDS,
    PHRASE_WORDS,
    MATH_WORDS,
    CODE_WORDS,
    CODE_WORDS_STRONG,
    CODE_SIGN_WORDS,
    CODE_LANGUAGES | CODE_LANGUAGES_TOO,
)
TABLES = (*SIGN_TABLES, *(words for _, words in LANGUAGE_WORDS))
"""By place. No table has more words than a byte can count."""


class Lexicon:
    """Tables whose words are looked up together; those of `languages` are the last."""

    __slots__ = ("_meanings", "_places", "_words", "languages")

    def __init__(self, tables: tuple[frozenset[str], ...], languages: tuple[str, ...] = ()) -> None:
        self.languages = languages
        meanings: dict[bytes, int] = {}
        for place, table in enumerate(tables):
            for word in table:
                known = meanings.get(word.encode(), 0)
                meanings[word.encode()] = known + (1 << 8 * place)
        self._meanings = meanings
        """Each word of each table: a number whose bytes are 1 in the places of the tables it stands in."""
        self._words = frozenset(meanings)
        self._places = len(tables)

    def counts(self, words: list[bytes]) -> bytes:
        """How many words of each table are among `words`, by the table's place; each counts once.

        The meanings of the words that were found are added up: so all tables are counted at once.
        """
        found = self._words.intersection(words)
        if not found:
            return bytes(self._places)
        return sum(map(self._meanings.__getitem__, found)).to_bytes(self._places, "little")


ALL_WORDS = Lexicon(TABLES, LANGUAGES)
SIGN_WORDS = Lexicon(SIGN_TABLES)
"""Without the words that tell a language. They are half of any prose, and so dear to find."""
