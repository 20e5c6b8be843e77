"""Files that mean harm, or look as if they did: made by `python -m tests.hostile OUT`, then decoded and scored.

The corpus is about decoding, so a tiny network with random weights scores it. Every file says what has to come of it:

    score    a valid picture, however odd: it must get a Prediction
    refuse   its picture data are not all there, or not a picture at all: it must get a Failure
    any      either, but nothing else: damage that the format cannot tell, or headers that may lie about nothing that counts

    pictures.py    valid pictures of every format and mode, the seeds of everything else
    mutations.py   cuts, flipped bits, and halves that claim to be whole
    headers.py     headers that lie about sizes, counts and lengths
    bombs.py       small files that ask for much memory or time
    guises.py      polyglots, wrong names, text, other formats
    places.py      links, pipes, sockets, devices, odd names, deep folders
    run.py         scores a corpus in a process with limited memory, and prints a table
    fuzz.py        mutates for a given time
"""
