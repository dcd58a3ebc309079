# Text tests: `# RUN:` lines are commands, `# CHECK` lines are what FileCheck expects.
# Run one alone: python3 /usr/lib/llvm-19/build/utils/lit/lit.py -v build/tests/check/name.cherry
import os
import shutil
import lit.formats

config.name = "cherry"
config.test_format = lit.formats.ShTest(True)
config.suffixes = [".cherry", ".ir", ".test"]
config.excludes = ["unit"]
config.test_source_root = os.path.join(config.source, "tests")
config.test_exec_root = os.path.join(config.build, "tests")
config.environment["XDG_CACHE_HOME"] = os.path.join(config.build, "tests", "cache")  # of objects, the suite's own
if not config.sanitize:
    config.available_features.add("limits")  # `ulimit -v` leaves no room for a sanitizer's shadow memory
if config.sentencepiece and shutil.which("spm_train"):
    config.available_features.add("sentencepiece")
# A model of a few thousand parameters over ASCII, for whole runs: %tiny stands for the file and its settings, %sizes for these alone.
tiny = {"vocab": 128, "embed": 16, "heads": 2, "key": 8, "ffn": 32, "layers": 2, "batch": 4, "time": 32,
        "warmup": 10, "sample_every": 0}
settings = " ".join(f"--set {name}={value}" for name, value in tiny.items())
nano = os.path.join(config.source, "models", "nano.cherry")
config.substitutions.append(("%tiny", f"{nano} {settings}"))
config.substitutions.append(("%sizes", settings))
config.substitutions.append(("%story", os.path.join(config.source, "tests", "data", "story.txt")))
config.substitutions.append(("%exits", os.path.join(config.source, "tests", "exits")))
config.substitutions.append(("%metrics", "python3 " + os.path.join(config.source, "tests", "run", "metrics.py")))
config.substitutions.append(("%tensors", "python3 " + os.path.join(config.source, "tests", "run", "tensors.py")))
# A GPU that is not there (tests/cuda/fake.c), with a cache of its own; variables may follow.
config.substitutions.append(("%fake_gpu", f"env LD_LIBRARY_PATH={config.build}/tests/fake_gpu "
                             f"XDG_CACHE_HOME={config.build}/tests/cuda_cache"))
config.substitutions.append(("%device_sweep", os.path.join(config.build, "tests", "device_sweep")))
config.substitutions.append(("%cherry", os.path.join(config.build, "cherry")))
config.substitutions.append(("%filecheck", config.filecheck))
config.substitutions.append(("%root", config.source))
config.substitutions.append(("%build", config.build))
