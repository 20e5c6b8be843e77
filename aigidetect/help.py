"""What stands below the help of each command: examples first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

GENERAL = """examples:
  aigidetect predict photo.jpg
  aigidetect predict photo.jpg --provenance     also what the file itself says of its origin
  aigidetect predict holiday/ more/*.png --format csv --output scores.csv
  aigidetect predict holiday/ --fpr 0.01        fewer false alarms, more "unsure"
  aigidetect report holiday/ -o report.html     a page to look at
  aigidetect demo                               a page to drop pictures on
  aigidetect list
  aigidetect verify --all
  aigidetect fetch npr-ms-ca:report             a checkpoint that others published
  aigidetect convert NPR.pth --as npr -o npr.safetensors

Every command has more: aigidetect predict --help

exit status:
  0  all inputs were scored      1  some were not; their records say why
  2  wrong use, or weights that cannot be used
  3  the records cannot be written, for instance because the disk is full
  130  interrupted (Ctrl-C)      141  the reader, such as `head`, closed the pipe
"""

_EXAMPLES = {
    "predict": """
  aigidetect predict photo.jpg
  aigidetect predict photo.jpg --provenance --stability    also what the file says, and whether a copy gets the same verdict
  aigidetect predict holiday/ --format csv --output scores.csv
  aigidetect predict "holiday/**/*.jpg" --fpr 0.01         fewer false alarms, more "unsure"
  aigidetect predict inbox/ --isolate 30                   files of strangers, each opened for at most 30 seconds
  aigidetect predict photo.jpg --heatmap maps/             also a PNG of which places speak for and against "ai"
  aigidetect predict holiday/ --backend openvino           needs pip install 'aigidetect[openvino]'
""",
    "report": """
  aigidetect report holiday/
  aigidetect report holiday/ -o holiday.html --heatmaps    also show what moved the detector
""",
    "demo": """
  aigidetect demo                                          needs pip install 'aigidetect[demo]'
  aigidetect demo --examples holiday/ --port 8000
""",
    "list": """
  aigidetect list
""",
    "fetch": """
  aigidetect fetch vit-clip                                for later use without a network
  aigidetect fetch npr-ms-ca:report                        a checkpoint that others published
""",
    "verify": """
  aigidetect verify vit-clip
  aigidetect verify --all
""",
    "convert": """
  aigidetect convert NPR.pth --as npr -o npr.safetensors
  aigidetect predict photo.jpg --detector npr --weights npr.safetensors
""",
    "export": """
  aigidetect export npr-ms-ca -o npr-ms-ca.onnx                    needs pip install 'aigidetect[onnx]'
  aigidetect export vit-clip --half -o vit-clip.onnx               half the size
  aigidetect export npr-ms-ca --format openvino -o npr-ms-ca.xml   needs pip install 'aigidetect[openvino]'
""",
    "completion": """
  aigidetect completion bash >> ~/.bashrc
""",
}


_NOTES = {
    "predict": """what is shown:
  The verdict, "ai", "real" or "unsure", and the probability that the picture is AI-generated. "ai" is a reason to look
  closer and never proof: --fpr says how many real photographs are called so by mistake.
  --provenance reads what programs and cameras wrote into the file. That is easily removed or forged, so it does not touch
  the score, and a file that says nothing may be anything. With pip install 'aigidetect[c2pa]', signatures are checked too.
  --heatmap writes one PNG for each scored picture, called by the number of its record and its name. It opens the picture
  once more, and takes about as long again.
  --stability scores the picture again after five light re-encodings and rescalings. Where the verdict changes, trust it
  less.
  --backend has ONNX Runtime or OpenVINO run the network on the CPU; late digits of the scores differ. The first run makes a
  graph, which is kept, and takes longer.

long runs:
  One record is one line, and one call writes it: a run that is killed leaves whole lines in FILE. The same command with
  --resume goes on after the last of them, and cuts a torn one away. It refuses a FILE made with other weights, another
  --fpr or other inputs, and changes nothing then. FILE is forced to the disk (fsync) every 10 seconds and at the end: a
  power cut loses at most the records since.
  --isolate decodes in as many processes as --workers says. A file over which the decoder dies, or that takes longer, gets
  a record like any other failure.
""",
    "report": """what it is:
  One HTML file that asks the network for nothing: counts, a histogram, and a table of all pictures to sort and filter, with
  thumbnails. Whoever gets the file sees these and the file names. It is written when all pictures are scored.
""",
    "demo": """what it is:
  A page at an address of this machine, which others cannot reach and which asks no other host for anything. Uploads are
  decoded in a process of their own and removed after two hours at most. With --share, Gradio makes a public link, and
  uploads pass through its servers. Ctrl-C ends it.
""",
    "export": """what is written:
  The network alone: preprocessing and calibration are in the file as JSON, see docs/integrations.md. Its logits are compared
  with those of torch, on pictures and in batches of several sizes; a file that differs by more than the tolerance, which is
  printed, is not written, and the exit status is 2.
""",
    "completion": """to have it in every new shell:
  bash   aigidetect completion bash >> ~/.bashrc
  zsh    aigidetect completion zsh > ~/.zfunc/_aigidetect       with ~/.zfunc in fpath before compinit
  fish   aigidetect completion fish > ~/.config/fish/completions/aigidetect.fish
""",
}


def add_examples(commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Gives each command the text below its help."""
    for name, text in _EXAMPLES.items():
        parser = commands[name]
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = f"examples:\n{text.strip(chr(10))}\n\n{_NOTES.get(name, '')}".rstrip() + "\n"
