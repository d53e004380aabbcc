"""What one does without Forebay: a fresh process pulls the file over one link, loads it with transformers, generates.

Prints the seconds from the start of this process to the first token.
"""

import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.time()
PIECE = 1 << 20


def pull(source: Path, target: Path, rate: float) -> None:
    """Copy a checkpoint at ``rate`` bytes per second."""
    began, moved = time.monotonic(), 0
    for path in sorted(source.iterdir()):
        with path.open("rb") as reader, (target / path.name).open("wb") as writer:
            while piece := reader.read(PIECE):
                moved += len(piece)
                time.sleep(max(0.0, began + moved / rate - time.monotonic()))
                writer.write(piece)


def main() -> None:
    source, rate, prompt = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    with tempfile.TemporaryDirectory() as folder:
        # The pull and the imports overlap: the kindest reading of a plain start.
        import threading

        pulling = threading.Thread(target=pull, args=(source, Path(folder), rate))
        pulling.start()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        pulling.join()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        model.generate(**ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
        print(time.time() - BEGAN)


if __name__ == "__main__":
    main()
