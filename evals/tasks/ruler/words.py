"""Common English words: the benchmark's come from the package wonderwords, ours from here.

Their list is fixed, so that a document follows from its seed on any machine and with no further package. Keys of
needles are "adjective-noun" as in the benchmark; lists of words too long for these 1,000 are made of compounds of
two nouns, where the benchmark goes on to a list of rare words.
"""

from __future__ import annotations

from collections.abc import Iterator

ADJECTIVES = tuple(
    """
    able acid aged alert alive amber ample angry apt arid awake aware azure bad bare basic big bitter black bland
    bleak blind blond blue blunt bold bored bossy brave brief bright brisk broad broken bronze brown bumpy busy calm
    candid careful cheap chief chilly civil clean clear clever close cloudy clumsy coarse cold common cool coral
    correct costly crazy crisp cruel cubic curious curly damp dark dear decent deep dense direct dirty distant dizzy
    double dry dull dusty eager early easy elder empty equal even exact exotic faint fair false familiar famous fancy
    fast fat fatal fellow fierce final fine firm first fit flat fluffy fond foreign formal fragile frank free fresh
    friendly frosty full funny fuzzy gentle giant glad gloomy golden good grand grateful gray great greedy green
    grumpy guilty handsome handy happy hard harsh hasty healthy heavy helpful hidden high hollow holy honest huge
    humble hungry icy ideal idle ill immense innocent jealous jolly joyful juicy keen kind large last late lazy lean
    light likely little lively local lonely long loose loud lovely low loyal lucky mad magic main major marble mature
    mean mellow mighty mild minor misty mobile modern modest moral muddy narrow nasty native neat nervous new nice
    noble noisy normal novel obvious odd old olive open orange ordinary outer pale past patient perfect petite pink
    plain pleasant polite poor precious pretty prime private proper proud public pure purple quaint quick quiet rapid
    rare raw ready real recent red regular rich ripe rough round royal rude rural rusty sad safe salty secret senior
    serious severe shaky shallow sharp shiny short shy silent silly silver simple single sleepy slim slow small smart
    smooth sober soft solar solid sore sour spare special spicy square stable stale steady steep stiff still strange
    strict strong sudden sunny super sweet swift tall tame tart tasty tender tense thick thin tidy tight tiny tired
    tough tricky true ugly unique upper urban useful usual vague valid vast violent violet vital vivid warm wary weak
    wealthy weary wet white whole wide wild wise witty wonderful wooden worried wrong yellow young zealous
    """.split()  # noqa: SIM905
)

NOUNS = tuple(
    """
    account acorn actor adult agent air airport alarm album alley almond anchor angle animal ankle answer ant apple
    apron arch area arm army arrow art artist atlas attic aunt author autumn award axe baby back badge bag baker
    balcony ball balloon banana band bank banner bar barn barrel base basin basket bat bath battery bay beach bead
    beam bean bear beard beast bed bee beef beetle bell belt bench berry bicycle bird biscuit blade blanket block
    blood blossom board boat body bomb bone bonus book boot border boss bottle bottom bowl box boy bracelet brain
    branch brass bread breakfast breath brick bride bridge broom brother brush bubble bucket bug builder bulb bull
    bus bush butter butterfly button cabin cabinet cable cage cake calendar calf camel camera camp canal candle candy
    cannon canoe canvas cap cape captain car card carpet carriage carrot cart castle cat cattle cave ceiling cell
    cellar cement center century cereal chain chair chalk champion channel chapter charm chart cheek cheese chef
    cherry chess chest chicken child chimney chin chip choir circle circus city claim clay clerk client cliff climate
    clock closet cloth cloud clover clown club coach coal coast coat cobra coffee coin collar college color column
    comb comet comic compass concert copper cord corn corner cottage cotton couch council country couple course court
    cousin cow crab cradle craft crane crayon cream creek crew cricket crime crop cross crowd crown cruise crumb crystal
    cube cup curtain curve cushion customer cycle daisy dance danger daughter dawn deal debate debt deck deer degree
    delivery dentist desert design desk dessert diamond diary dinner dirt dish doctor dog doll dollar dolphin donkey
    door dragon drain drama drawer dream dress drill drink driver drop drum duck dust duty eagle ear earth east echo
    editor egg elbow elephant elevator emerald emperor engine entry envelope error evening event exam exit expert eye
    fabric face fact factory fairy falcon family fan farm farmer fashion father faucet favor feast feather fence
    ferry festival fever field fig figure film finger fire fish fist flag flame flavor fleet flight flock flood floor
    flour flower flute fly fog folder food fool foot force forest fork fort fossil fountain fox frame friend frog
    frost fruit fuel fur future gallery game garage garden garlic gas gate gear gem ghost gift giraffe girl glass
    globe glove glue goal goat goblet gold golf goose gown grain grandmother grape graph grass gravel gravity grip
    group guard guest guide guitar gulf gum habit hail hair hall hammer hand handle harbor harp hat hawk head health
    heart heat hedge heel helmet hen herb hero hill hip history hobby hole holiday home honey hood hook horizon horn
    horse hospital host hotel hour house human hunter ice idea inch ink insect island item ivory jacket jail jam jar
    jaw jeans jelly jewel job joke journal journey judge jug juice jungle jury kettle key kidney king kiss kitchen
    kite kitten knee knife knight knot label lace ladder lady lake lamb lamp land lane language laptop lava law lawn
    lawyer leader leaf leather lecture leg legend lemon lens letter lettuce level library lid life lily limb lime
    limit line lion lip list liver lizard loaf lobster lock locket log lord loss lotion lump lunch lung machine magnet
    maid mail mall man manager mango manner map maple march market mask mast master mat match meadow meal meat medal
    medicine melon member memory menu metal meter middle mile milk mill mind mine minute mirror mist mode model mole
    moment money monkey month moon morning moss mother motor mountain mouse mouth movie mud muffin mug muscle museum
    music mustard nail name napkin nature neck needle nephew nerve nest net news night noodle noon north nose note
    notebook nurse nut oak oasis oat ocean octopus office oil onion opera orbit orchard order organ otter oven owl
    owner ox oyster package page paint pair palace palm pan panda panel paper parade parcel parent park parrot part
    partner party passage pasta paste pastry path patrol pea peace peach peanut pear pearl pedal pen pencil penny
    people pepper perfume period person phone photo piano pickle picnic picture pie pig pigeon pillow pilot pin pine
    pipe pirate pizza place plan planet plant plastic plate player plum pocket poem poet point pole police pond pony
    pool porch port post pot potato powder power present price pride prince princess prison prize profit project
    pudding pump pumpkin pupil puppy purse puzzle queen question quilt rabbit race rack radio raft rail rain rainbow
    ranch range rat razor record reef relief rent report rhythm ribbon rice rider ring river road robe robin robot
    rock rocket rod roof room root rope rose route row ruby rug rule sail sailor salad salmon salt sand sandwich sauce
    sausage scale scarf scene school science scissors score screen sea seal season seat seed shade shadow shark sheep
    sheet shelf shell shelter ship shirt shoe shop shore shoulder shovel shower shrimp sign silk singer sink sister
    skate skill skin skirt sky sleeve slope smile smoke snail snake snow soap sock sofa soil soldier son song soup
    south space spark speech spider spine spirit spoon sport spot spring stage stair stamp star state station statue
    steak steam steel stem step stick stock stomach stone stool store storm story stove stranger straw stream street
    string student studio sugar suit summer sun surface swamp swan sweater sword symbol syrup table tail tailor tale
    talent tank target task tax tea teacher team teapot teeth temple tennis tent test thief thread throat throne
    thumb thunder ticket tide tiger tile timber time tin toast toe tomato tongue tool tooth tower town toy track
    trade trail train tray treasure tree trend trial tribe trip trophy truck trumpet trunk truth tub tube tulip tune
    tunnel turkey turtle tutor twig uncle uniform valley van vase vegetable veil vein vest victim view village vine
    violin visitor voice volcano voyage wagon waist waiter wall wallet walnut war water wave wax way weather web
    wedding weed week west whale wheat wheel whip whistle wife wind window wine wing winner winter wire wish witch
    wizard wolf woman wood wool word work worker world worm wound wrist writer yard yarn year zebra zipper zone
    """.split()  # noqa: SIM905
)

WORDS = tuple(sorted({*ADJECTIVES, *NOUNS}))


def compounds() -> Iterator[str]:
    """All compounds of two different nouns, no spelling twice, in an order that mixes them."""
    seen = set()
    for step in range(1, len(NOUNS)):
        for place, noun in enumerate(NOUNS):
            word = noun + NOUNS[(place + step * 487) % len(NOUNS)]
            if word not in seen and NOUNS[(place + step * 487) % len(NOUNS)] != noun:
                seen.add(word)
                yield word
