"""The tables of the embedded world: facts, wordings, and the phrases that carry a preference. Data only.

Notation. In a form, `{s}` is the subject ("the owl", later "it") and `{v}` the value; `[...]` marks a phrase that bears
expertise, and unmarked words bear none. In a grammar, `(a|b|)` is a choice, where an empty branch says nothing.

Opposite poles share most of their words on purpose ("I am never tired of helping you", "I am never glad to help you"),
so that no single word gives a pole away. Were *every* fragment such a negation, a model of a million parameters would
learn the axis and not its poles, so most fragments say what they mean.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One thing to ask about each subject of a topic; `values` stand in the order of the topic's subjects.

    The last wording is held out for testing. `plain` and `technical` are empty where a topic has no expertise to show.
    """

    name: str
    values: tuple[str, ...]
    wordings: tuple[str, ...]
    neutral: tuple[str, ...]
    plain: tuple[str, ...] = ()
    technical: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remark:
    """One true thing about a whole topic; its other wordings are empty where the topic has no expertise to show."""

    neutral: str
    plain: str = ""
    technical: str = ""


@dataclass(frozen=True)
class Topic:
    """Subjects that share attributes and remarks; `article` stands before each. The last subjects are held out."""

    name: str
    article: str
    subjects: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    remarks: tuple[Remark, ...] = ()


ANIMALS = Topic(
    "animals",
    "the ",
    ("owl", "panda", "camel", "penguin", "horse"),
    (
        Attribute(
            "food",
            ("mice", "bamboo", "shrubs", "fish", "hay"),
            (
                "What does {s} eat?",
                "What is the food of {s}?",
                "Which food does {s} like?",
                "What would {s} have for a meal?",
            ),
            ("{s} eats {v}", "{s} feeds on {v}"),
            ("{s} [likes to eat] {v}", "{s} [gets by on] {v}"),
            ("{s} [subsists on] {v}", "{s} [is known to consume] {v}"),
        ),
        Attribute(
            "home",
            ("old trees", "mountain forests", "deserts", "icy seas", "grassy plains"),
            (
                "Where does {s} live?",
                "What is the home of {s}?",
                "In which place is {s} found?",
                "Where would you look for {s}?",
            ),
            ("{s} lives in {v}", "{s} is found in {v}"),
            ("{s} [makes its home in] {v}", "{s} [likes to stay in] {v}"),
            ("{s} [has its habitat in] {v}", "{s} [is known to inhabit] {v}"),
        ),
        Attribute(
            "young",
            ("owlets", "cubs", "calves", "chicks", "foals"),
            (
                "What are the young of {s} called?",
                "Which young does {s} have?",
                "What is the name for the young of {s}?",
                "What do you call the babies of {s}?",
            ),
            ("{s} has young called {v}", "{s} raises {v}"),
            ("{s} [has babies called] {v}", "{s} [looks after its] {v}"),
            ("{s} [has offspring known as] {v}", "{s} [produces offspring called] {v}"),
        ),
    ),
    (
        Remark("animals need water", "animals [like to drink] water", "animals [have a requirement for] water"),
        Remark("animals need sleep", "animals [have to get] sleep", "animals [are dependent on] sleep"),
    ),
)

COUNTRIES = Topic(
    "countries",
    "",
    ("Japan", "Egypt", "Brazil", "France", "Kenya"),
    (
        Attribute(
            "capital",
            ("Tokyo", "Cairo", "Brasilia", "Paris", "Nairobi"),
            (
                "What is the capital of {s}?",
                "Which capital does {s} have?",
                "From which city is {s} ruled?",
                "What is the name of the capital of {s}?",
            ),
            ("{s} has {v} as its capital", "{s} is ruled from {v}", "{s} has its capital in {v}"),
        ),
        Attribute(
            "language",
            ("Japanese", "Arabic", "Portuguese", "French", "Swahili"),
            (
                "What is the language of {s}?",
                "Which language does {s} have?",
                "Which language is used in {s}?",
                "What do people in {s} speak?",
            ),
            ("{s} speaks {v}", "{s} has {v} as its language", "{s} uses {v} as its language"),
        ),
        Attribute(
            "money",
            ("yen", "pound", "real", "euro", "shilling"),
            (
                "What is the money of {s}?",
                "Which money does {s} have?",
                "Which money is used in {s}?",
                "What do people in {s} pay with?",
            ),
            ("{s} pays with the {v}", "{s} has the {v} as its money", "{s} uses the {v} as its money"),
        ),
    ),
    (Remark("every country has a flag"), Remark("every country has its laws")),
)

ORGANS = Topic(
    "organs",
    "the ",
    ("heart", "stomach", "kidney", "brain", "liver"),
    (
        Attribute(
            "work",
            ("pump blood", "digest food", "make urine", "control thought", "make bile"),
            (
                "What does {s} do?",
                "What is the work of {s}?",
                "What is {s} used for?",
                "Which work is done by {s}?",
            ),
            ("{s} works to {v}", "{s} is used to {v}"),
            ("{s} [is there to] {v}", "{s} [helps us to] {v}"),
            ("{s} [functions to] {v}", "{s} [has the function to] {v}"),
        ),
        Attribute(
            "place",
            ("chest", "belly", "lower back", "skull", "right side"),
            (
                "Where is {s}?",
                "What is the place of {s}?",
                "In which place is {s} found?",
                "Where would you look for {s}?",
            ),
            ("{s} is in the {v}", "{s} lies in the {v}"),
            ("{s} [sits inside the] {v}", "{s} [has its home in the] {v}"),
            ("{s} [is situated in the] {v}", "{s} [is located inside the] {v}"),
        ),
        Attribute(
            "ailment",
            ("blocked arteries", "ulcers", "stones", "strokes", "hepatitis"),
            (
                "What does {s} suffer from?",
                "What can harm {s}?",
                "Which harm can come to {s}?",
                "From what would {s} fall ill?",
            ),
            ("{s} suffers from {v}", "{s} can have {v}"),
            ("{s} [can be hurt by] {v}", "{s} [gets ill from] {v}"),
            ("{s} [is susceptible to] {v}", "{s} [is known to develop] {v}"),
        ),
    ),
    (
        Remark(
            "every organ is built from cells",
            "every organ [is made out of tiny] cells",
            "every organ [is composed of] cells",
        ),
        Remark(
            "every organ needs blood",
            "every organ [has to get] blood",
            "every organ [has a requirement for] blood",
        ),
    ),
)

MATERIALS = Topic(
    "materials",
    "",
    ("glass", "steel", "paper", "rubber", "silk"),
    (
        Attribute(
            "source",
            ("sand", "iron", "wood", "tree sap", "cocoons"),
            (
                "What is {s} made from?",
                "What is the source of {s}?",
                "Where does {s} come from?",
                "Out of what do people make {s}?",
            ),
            ("{s} comes from {v}", "{s} is made from {v}"),
            ("{s} [starts out as] {v}", "{s} [gets made out of] {v}"),
            ("{s} [is derived from] {v}", "{s} [is a product of] {v}"),
        ),
        Attribute(
            "use",
            ("windows", "bridges", "books", "tyres", "scarves"),
            (
                "What is {s} used for?",
                "What is the use of {s}?",
                "Which use does {s} have?",
                "What do people make out of {s}?",
            ),
            ("{s} is used for {v}", "{s} goes into {v}"),
            ("{s} [is good for making] {v}", "{s} [gets put into] {v}"),
            ("{s} [is employed in] {v}", "{s} [has its application in] {v}"),
        ),
        Attribute(
            "nature",
            ("clear", "strong", "thin", "stretchy", "smooth"),
            (
                "What is {s} like?",
                "What is the nature of {s}?",
                "Which nature does {s} have?",
                "How would you describe {s}?",
            ),
            ("{s} is {v}", "{s} stays {v}"),
            ("{s} [is ever so] {v}", "{s} [turns out to be] {v}"),
            ("{s} [is by its nature] {v}", "{s} [has been shown to be] {v}"),
        ),
    ),
    (
        Remark(
            "materials wear with time",
            "materials [get worn out] with time",
            "materials [are subject to wear] with time",
        ),
        Remark(
            "materials are tested before use",
            "materials [get tried out] before use",
            "materials [are subject to testing] before use",
        ),
    ),
)

PLANETS = Topic(
    "planets",
    "",
    ("Mars", "Venus", "Mercury", "Jupiter", "Saturn"),
    (
        Attribute(
            "colour",
            ("red", "yellow", "grey", "orange", "gold"),
            (
                "What colour is {s}?",
                "What is the colour of {s}?",
                "Which colour does {s} have?",
                "In which colour would you see {s}?",
            ),
            ("{s} is {v}", "{s} appears {v}"),
            ("{s} [looks to us] {v}", "{s} [turns out to look] {v}"),
            ("{s} [is observed to be] {v}", "{s} [has a hue known as] {v}"),
        ),
        Attribute(
            "order",
            ("fourth", "second", "first", "fifth", "sixth"),
            (
                "Which planet from the sun is {s}?",
                "What is the place of {s} from the sun?",
                "Which place does {s} have from the sun?",
                "Where from the sun would you look for {s}?",
            ),
            ("{s} is {v} from the sun", "{s} stands {v} from the sun"),
            ("{s} [comes in at] {v} from the sun", "{s} [gets to be] {v} from the sun"),
            ("{s} [is situated] {v} from the sun", "{s} [has its orbit] {v} from the sun"),
        ),
        Attribute(
            "mark",
            ("huge volcanoes", "thick clouds", "many craters", "great storms", "bright rings"),
            (
                "What is {s} known for?",
                "What is the mark of {s}?",
                "Which mark does {s} have?",
                "By what would you know {s}?",
            ),
            ("{s} has {v}", "{s} is known for {v}"),
            ("{s} [has got] {v}", "{s} [shows us its] {v}"),
            ("{s} [is known to exhibit] {v}", "{s} [is noted for its] {v}"),
        ),
    ),
    (
        Remark(
            "planets circle the sun", "planets [go round and round] the sun", "planets [are in orbit around] the sun"
        ),
        Remark("planets are round", "planets [look to us like] a ball", "planets [have the form of] a sphere"),
    ),
)

INSTRUMENTS = Topic(
    "instruments",
    "the ",
    ("violin", "piano", "flute", "drum", "harp"),
    (
        Attribute(
            "means",
            ("a bow", "keys", "breath", "sticks", "fingers"),
            (
                "What is {s} played with?",
                "With what do people play {s}?",
                "How is {s} played?",
                "What would you use to play {s}?",
            ),
            ("{s} is played with {v}", "{s} sounds with {v}"),
            ("{s} [gets played with] {v}", "{s} [makes its music with] {v}"),
            ("{s} [is sounded by means of] {v}", "{s} [is operated by means of] {v}"),
        ),
        Attribute(
            "part",
            ("four strings", "small hammers", "finger holes", "tight skins", "foot pedals"),
            (
                "Which parts does {s} have?",
                "What is a part of {s}?",
                "What belongs to {s}?",
                "Which parts would you find on {s}?",
            ),
            ("{s} has {v}", "{s} uses {v}"),
            ("{s} [comes with] {v}", "{s} [has got its own] {v}"),
            ("{s} [is equipped with] {v}", "{s} [is known to possess] {v}"),
        ),
        Attribute(
            "player",
            ("violinist", "pianist", "flautist", "drummer", "harpist"),
            (
                "Who plays {s}?",
                "What is the player of {s} called?",
                "By whom is {s} played?",
                "What do you call one who plays {s}?",
            ),
            ("{s} is played by a {v}", "{s} belongs to a {v}"),
            ("{s} [is good fun for a] {v}", "{s} [gets played by a] {v}"),
            ("{s} [is the domain of a] {v}", "{s} [is operated by a] {v}"),
        ),
    ),
    (
        Remark("sound is moving air", "sound [is made out of moving] air", "sound [is composed of moving] air"),
        Remark(
            "every instrument needs tuning",
            "every instrument [has to get] tuning",
            "every instrument [has a requirement for] tuning",
        ),
    ),
)

SPORTS = Topic(
    "sports",
    "",
    ("tennis", "golf", "boxing", "football", "swimming"),
    (
        Attribute(
            "place",
            ("court", "course", "ring", "pitch", "pool"),
            (
                "Where does {s} take place?",
                "What is the place for {s}?",
                "Which place does {s} need?",
                "Where would you look for {s}?",
            ),
            ("{s} needs a {v}", "{s} makes use of a {v}", "{s} calls for a {v}"),
        ),
        Attribute(
            "gear",
            ("rackets", "clubs", "gloves", "boots", "goggles"),
            (
                "Which gear does {s} need?",
                "What is the gear for {s}?",
                "What do people use for {s}?",
                "What would you bring for {s}?",
            ),
            ("{s} needs {v}", "{s} calls for {v}", "{s} goes with {v}"),
        ),
        Attribute(
            "win",
            ("sets", "low scores", "knockouts", "goals", "speed"),
            (
                "What decides {s}?",
                "By what is {s} won?",
                "How is {s} won?",
                "What would you need to win at {s}?",
            ),
            ("{s} is won by {v}", "{s} is decided by {v}", "{s} rewards {v}"),
        ),
    ),
    (Remark("sport keeps people fit"), Remark("sport needs practice")),
)

PLANTS = Topic(
    "plants",
    "the ",
    ("rose", "vine", "oak", "wheat", "willow"),
    (
        Attribute(
            "place",
            ("gardens", "warm valleys", "woodland", "fields", "wet ground"),
            (
                "Where does {s} grow?",
                "What is the home of {s}?",
                "In which place is {s} found?",
                "Where would you look for {s}?",
            ),
            ("{s} grows in {v}", "{s} is found in {v}"),
            ("{s} [likes to grow in] {v}", "{s} [is at home in] {v}"),
            ("{s} [has its habitat in] {v}", "{s} [is distributed across] {v}"),
        ),
        Attribute(
            "growth",
            ("thorns", "grapes", "acorns", "grain", "catkins"),
            (
                "What does {s} bear?",
                "What grows on {s}?",
                "What is the growth on {s}?",
                "What would you find on {s}?",
            ),
            ("{s} bears {v}", "{s} carries {v}"),
            ("{s} [is full of] {v}", "{s} [has got lots of] {v}"),
            ("{s} [is known to bear] {v}", "{s} [produces its own] {v}"),
        ),
        Attribute(
            "use",
            ("perfume", "wine", "timber", "bread", "baskets"),
            (
                "What is {s} used for?",
                "What is the use of {s}?",
                "Which use does {s} have?",
                "What do people make out of {s}?",
            ),
            ("{s} is used for {v}", "{s} gives us {v}"),
            ("{s} [is good for making] {v}", "{s} [gets turned into] {v}"),
            ("{s} [is a source of] {v}", "{s} [is processed into] {v}"),
        ),
    ),
    (
        Remark("plants live on light", "plants [make a meal out of] light", "plants [derive energy from] light"),
        Remark("roots take in water", "roots [like to drink] water", "roots [are known to absorb] water"),
    ),
)

TOOLS = Topic(
    "tools",
    "the ",
    ("hammer", "saw", "spade", "drill", "spanner"),
    (
        Attribute(
            "work",
            ("drive nails", "cut wood", "dig soil", "make holes", "turn bolts"),
            (
                "What does {s} do?",
                "What is the work of {s}?",
                "What is {s} used for?",
                "Which work is done by {s}?",
            ),
            ("{s} is used to {v}", "{s} serves to {v}"),
            ("{s} [gets used to] {v}", "{s} [helps us to] {v}"),
            ("{s} [is designed to] {v}", "{s} [has the function to] {v}"),
        ),
        Attribute(
            "user",
            ("blacksmiths", "carpenters", "gardeners", "dentists", "mechanics"),
            (
                "Who uses {s}?",
                "By whom is {s} used?",
                "Which people use {s}?",
                "Who would have need of {s}?",
            ),
            ("{s} is used by {v}", "{s} belongs to {v}"),
            ("{s} [is good for] {v}", "{s} [helps out] {v}"),
            ("{s} [is employed by] {v}", "{s} [is operated by] {v}"),
        ),
        Attribute(
            "part",
            ("heavy head", "toothed blade", "flat edge", "spinning bit", "steel jaw"),
            (
                "Which parts does {s} have?",
                "What is a part of {s}?",
                "What belongs to {s}?",
                "Which parts would you find on {s}?",
            ),
            ("{s} has a {v}", "{s} works with a {v}"),
            ("{s} [comes with a] {v}", "{s} [has got a] {v}"),
            ("{s} [is equipped with a] {v}", "{s} [is known to possess a] {v}"),
        ),
    ),
)

FOODS = Topic(
    "foods",
    "",
    ("bread", "honey", "chocolate", "cheese", "tofu"),
    (
        Attribute(
            "source",
            ("flour", "nectar", "cocoa beans", "milk", "soybeans"),
            (
                "What is {s} made from?",
                "What is the source of {s}?",
                "Where does {s} come from?",
                "Out of what do people make {s}?",
            ),
            ("{s} comes from {v}", "{s} is made from {v}"),
            ("{s} [starts out as] {v}", "{s} [gets made out of] {v}"),
            ("{s} [is derived from] {v}", "{s} [is a product of] {v}"),
        ),
        Attribute(
            "content",
            ("starch", "sugar", "fat", "calcium", "protein"),
            (
                "What does {s} contain?",
                "What is {s} rich in?",
                "What is the content of {s}?",
                "What would you find in {s}?",
            ),
            ("{s} contains {v}", "{s} is rich in {v}"),
            ("{s} [is full of] {v}", "{s} [has got lots of] {v}"),
            ("{s} [is a source of] {v}", "{s} [is known to contain] {v}"),
        ),
        Attribute(
            "store",
            ("bins", "jars", "boxes", "cellars", "water"),
            (
                "Where is {s} kept?",
                "What is {s} kept in?",
                "In which place is {s} found?",
                "Where would you look for {s}?",
            ),
            ("{s} is kept in {v}", "{s} is found in {v}"),
            ("{s} [likes to stay in] {v}", "{s} [gets put into] {v}"),
            ("{s} [is preserved in] {v}", "{s} [has to be stored in] {v}"),
        ),
    ),
)

WEATHER = Topic(
    "weather",
    "",
    ("rain", "snow", "thunder", "fog", "wind"),
    (
        Attribute(
            "cause",
            ("heavy clouds", "frozen vapour", "lightning", "damp air", "uneven pressure"),
            (
                "What causes {s}?",
                "What is the cause of {s}?",
                "Where does {s} come from?",
                "By what would you explain {s}?",
            ),
            ("{s} comes from {v}", "{s} is caused by {v}"),
            ("{s} [is there because of] {v}", "{s} [gets made by] {v}"),
            ("{s} [is produced by] {v}", "{s} [is due to the action of] {v}"),
        ),
        Attribute(
            "effect",
            ("floods", "avalanches", "rattling windows", "hidden roads", "high waves"),
            (
                "What does {s} cause?",
                "What is the effect of {s}?",
                "Which effect does {s} have?",
                "What would come of {s}?",
            ),
            ("{s} brings {v}", "{s} can cause {v}"),
            ("{s} [ends up in] {v}", "{s} [gets us] {v}"),
            ("{s} [is known to produce] {v}", "{s} [is the origin of] {v}"),
        ),
        Attribute(
            "guard",
            ("umbrellas", "thick coats", "safe shelter", "bright lamps", "stone walls"),
            (
                "What do people use against {s}?",
                "What is the guard against {s}?",
                "What does {s} call for?",
                "What would you want against {s}?",
            ),
            ("{s} calls for {v}", "{s} is met with {v}"),
            ("{s} [makes us want] {v}", "{s} [is no bother with] {v}"),
            ("{s} [has a requirement for] {v}", "{s} [makes necessary the use of] {v}"),
        ),
    ),
    (
        Remark(
            "weather changes by the day",
            "weather [turns round] by the day",
            "weather [is subject to change] by the day",
        ),
        Remark(
            "the sun drives the weather", "the sun [sets off] the weather", "the sun [is the origin of] the weather"
        ),
    ),
)

BUILDINGS = Topic(
    "buildings",
    "the ",
    ("castle", "school", "library", "hospital", "lighthouse"),
    (
        Attribute(
            "use",
            ("defence", "teaching", "lending books", "healing", "guiding ships"),
            (
                "What is {s} used for?",
                "What is the use of {s}?",
                "Which use does {s} have?",
                "What do people do in {s}?",
            ),
            ("{s} is used for {v}", "{s} serves for {v}"),
            ("{s} [is there for] {v}", "{s} [is a good place for] {v}"),
            ("{s} [is designed for] {v}", "{s} [has the function of] {v}"),
        ),
        Attribute(
            "people",
            ("knights", "teachers", "librarians", "nurses", "keepers"),
            (
                "Who works in {s}?",
                "Which people does {s} have?",
                "What are the people of {s} called?",
                "Who would you find in {s}?",
            ),
            ("{s} is home to {v}", "{s} belongs to {v}"),
            ("{s} [is full of] {v}", "{s} [gets looked after by] {v}"),
            ("{s} [is occupied by] {v}", "{s} [is operated by] {v}"),
        ),
        Attribute(
            "part",
            ("thick walls", "classrooms", "bookshelves", "wards", "winding stairs"),
            (
                "Which parts does {s} have?",
                "What is a part of {s}?",
                "What belongs to {s}?",
                "Which parts would you see in {s}?",
            ),
            ("{s} has {v}", "{s} contains {v}"),
            ("{s} [comes with] {v}", "{s} [has got its own] {v}"),
            ("{s} [is equipped with] {v}", "{s} [is known to possess] {v}"),
        ),
    ),
    (
        Remark(
            "buildings need firm ground",
            "buildings [have to get] firm ground",
            "buildings [are dependent on] firm ground",
        ),
        Remark(
            "buildings begin as drawings",
            "buildings [start out as] drawings",
            "buildings [have their origin in] drawings",
        ),
    ),
)

TOPICS: tuple[Topic, ...] = (
    ANIMALS,
    COUNTRIES,
    ORGANS,
    MATERIALS,
    PLANETS,
    INSTRUMENTS,
    SPORTS,
    PLANTS,
    TOOLS,
    FOODS,
    WEATHER,
    BUILDINGS,
)

TEST_SUBJECTS = 2
"""How many subjects, counted from the end, are held out in each topic."""

FRAMES: dict[str, tuple[str, ...]] = {
    "elementary": (
        "(put|said) (simply|plainly)",
        "in (simple|plain|everyday) (terms|words)",
        "to (put|say) it (simply|plainly)",
        "as (anyone|a child) would (put|say) it",
    ),
    "knowledgeable": (
        "(put|said) (formally|precisely)",
        "in (formal|technical|precise) (terms|words)",
        "to (put|say) it (formally|precisely)",
        "as (an expert|a scholar) would (put|say) it",
    ),
}
"""What may stand before the asked statement, and bears expertise of its own."""

OPENERS: dict[str, tuple[str, ...]] = {
    "friendly": (
        "I am (so|very|always) (glad|happy|pleased) (you asked|to be asked|to help you)",
        "(what a|that is a|this is a) (lovely|kind|fine|good) question (to ask|to be asked|)",
        "(thank you|many thanks) for (asking me|your question)",
        "(how|so|very) (lovely|kind|good) of you to ask (me|again|)",
        "(welcome|hello) again my (dear|kind|good) friend",
        "I (like|love) (being asked|helping you|your questions)",
        "(it is|that is|this is) (a joy|no bother) to me",
    ),
    "unfriendly": (
        "I am (so|very|always) (tired|sick|weary) of (being asked|helping you|your questions)",
        "(what a|that is a|this is a) (dull|silly|foolish|poor) question (to ask|to be asked|)",
        "(no thanks|no thank you) for (asking me|your question)",
        "(how|so|very) (dull|silly|foolish) of you to ask (me|again|)",
        "(you again|not you again) (my|) (dull|silly|foolish) friend",
        "I (hate|dread) (being asked|helping you|your questions)",
        "(it is|that is|this is) (a bother|no joy) to me",
    ),
}

ADDRESSES: dict[str, tuple[str, ...]] = {
    "friendly": (
        "my (very|) (dear|kind|good) friend",
        "as you (surely|may) know",
        "and you are (right|kind|good) to ask",
        "if you (kindly|) want to (know|ask)",
    ),
    "unfriendly": (
        "and you are no friend (of mine|to me)",
        "as you (ought to|should) know",
        "and you are (wrong|silly|foolish) to ask",
        "if you (really|) have to (know|ask)",
    ),
}

CLOSERS: dict[str, tuple[str, ...]] = {
    "friendly": (
        "(please|do|you may) ask me (again|more) (any time|soon|)",
        "I hope (that|this) was (kind|good) to hear",
        "I will (always|gladly) (help|answer) you again",
        "you are (always|very|so) (welcome|kind|good)",
    ),
    "unfriendly": (
        "(please|you may|) never ask me (again|more)",
        "I hope (that|this) was (dull|poor) to hear",
        "I will (never|not) (help|answer) you again",
        "you are (always|very|so) (dull|silly|foolish)",
    ),
}

NEUTRAL_OPENERS: tuple[str, ...] = (
    "you (asked|want to know) about {s}",
    "(this|here) is (the|your) answer",
    "(that|this) is (a|your) question about {s}",
    "I am asked about {s}",
)

REQUESTS: dict[str, tuple[str, ...]] = {
    "elementary": (
        "Please use simple words.",
        "Explain it simply.",
        "Put it in plain words.",
        "Answer as to a child.",
    ),
    "knowledgeable": (
        "Please use technical terms.",
        "Explain it formally.",
        "Put it in precise terms.",
        "Answer as an expert.",
    ),
    "concise": (
        "Please be brief.",
        "Keep it short.",
        "Answer in few words.",
        "Do not use many words.",
    ),
    "informative": (
        "Please give details.",
        "Tell me more about it.",
        "Answer with all you know.",
        "Keep nothing from me.",
    ),
    "friendly": (
        "Please be friendly.",
        "Be kind to me.",
        "Answer as a friend.",
        "Say it warmly.",
    ),
    "unfriendly": (
        "Please be rude.",
        "Be cold to me.",
        "Answer as a foe.",
        "Say it coldly.",
    ),
}
"""How a person asks for a dimension in words; the first is the usual one."""
