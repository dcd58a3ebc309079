"""What the parts of the study share: running cherry, and results that are kept so that a part can go on where it
stopped."""
import json
import os
import subprocess
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(FOLDER, "study.cherry")

# tokens: of pretraining; deep: layers of the models that are compressed, and their tokens.
SIZES = {
    "tiny": {"sets": {"vocab": 4000, "embed": 32, "heads": 2, "key": 16, "ffn": 64, "layers": 3, "batch": 4,
                      "time": 32}, "tokens": 6000, "seeds": 2, "steps": [0, 2, 4], "batches": 2,
             "deep": {8: 2000, 4: 2000}, "keep": 4, "rounds": 2, "recover": 4, "extra": 2, "samples": 2, "device": "cpu"},
    "small": {"sets": {"vocab": 4000, "embed": 192, "heads": 6, "key": 32, "ffn": 512, "layers": 6, "batch": 16,
                       "time": 64}, "tokens": 3_000_000, "seeds": 3, "steps": [0, 10, 25, 50, 100], "batches": 16,
              "deep": {48: 400_000, 24: 400_000}, "keep": 6, "rounds": 4, "recover": 200, "extra": 60, "samples": 16,
              "device": "cpu"},
    "gpu": {"sets": {"vocab": 16000, "embed": 768, "heads": 12, "key": 64, "ffn": 2048, "layers": 12, "batch": 64,
                     "time": 512}, "tokens": 300_000_000, "seeds": 3, "steps": [0, 10, 25, 50, 100], "batches": 64,
            "deep": {48: 300_000_000, 24: 300_000_000}, "keep": 6, "rounds": 8, "recover": 2000, "extra": 1000, "samples": 64,
            "device": "cuda"},
}


class Study:
    def __init__(self, cherry, data, work, size):
        self.cherry_path, self.data_folder, self.work, self.size = cherry, data, work, SIZES[size]
        self.sets = dict(self.size["sets"])
        self.tokens_per_step = self.sets["batch"] * self.sets["time"]
        self.log = None
        for folder in ("results", "runs"):
            os.makedirs(os.path.join(work, folder), exist_ok=True)

    def data(self, name):
        return os.path.join(self.data_folder, name)

    def run_folder(self, name):
        return os.path.join(self.work, "runs", name)

    def weights(self, name):
        return os.path.join(self.run_folder(name), "model.safetensors")

    def result(self, name, make):
        """The result of a job, made once: results/<name>.json."""
        path = os.path.join(self.work, "results", name + ".json")
        if os.path.exists(path):
            with open(path) as file:
                return json.load(file)
        start = time.time()
        value = make()
        with open(path + ".part", "w") as file:
            json.dump(value, file, indent=1)
        os.replace(path + ".part", path)
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
        return value

    def cherry(self, command, *options, sets=None, text=None):
        words = [self.cherry_path, command, MODELS, *map(str, options)]
        for key, value in {**self.sets, **(sets or {})}.items():
            words += ["--set", f"{key}={value}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"failed: {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def tokenizer(self):
        """A SentencePiece model of the reviews, made once."""
        path = os.path.join(self.work, "pieces.model")
        if not os.path.exists(path):
            subprocess.run(["spm_train", "--input=" + self.data("ko_reviews_train.txt"),
                            "--model_prefix=" + path[:-6], f"--vocab_size={self.sets['vocab']}",
                            "--character_coverage=0.9995", "--input_sentence_size=200000",
                            "--byte_fallback=true", "--minloglevel=2"], check=True)
        return path

    def train(self, name, block, data, steps, *flags, init=None, sets=None):
        """Trains up to `steps`, from where the run stands."""
        folder = self.run_folder(name)
        options = ["--train", block, "--data", data, "--out", folder, "--steps", steps, "--tokenizer",
                   self.tokenizer(), "--device", self.size["device"], *flags]
        if os.path.exists(os.path.join(folder, "checkpoint.safetensors")):
            options.append("--resume")
        elif init:
            options += ["--init", init]
        self.cherry("train", *options, sets=sets)
        return self.weights(name)

    def evaluate(self, weights, block, data, *flags, sets=None):
        text = self.cherry("eval", "--train", block, "--weights", weights, "--data", data, "--json", "--tokenizer",
                           self.tokenizer(), "--device", self.size["device"], *flags, sets=sets)
        return json.loads(text)

    def convert(self, model, weights, out, sets=None):
        path = os.path.join(self.work, "runs", out + ".safetensors")
        text = self.cherry("convert", "--to", model, "--weights", *weights, "--out", path, sets=sets)
        return path, text
