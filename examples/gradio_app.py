"""The page of `aigidetect demo` with the example pictures, and a Space of the Hub as it stands.

Usage: python examples/gradio_app.py, which needs pip install 'aigidetect[demo]'
"""

from pathlib import Path

import aigidetect
from aigidetect.demo import launch

if __name__ == "__main__":
    launch(aigidetect.load_detector(), examples=Path(__file__).parent / "images")
