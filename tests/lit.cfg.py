# Text tests: `# RUN:` lines are commands, `# CHECK` lines are what FileCheck expects.
# Run one alone: python3 /usr/lib/llvm-19/build/utils/lit/lit.py -v build/tests/check/name.cherry
import os
import lit.formats

config.name = "cherry"
config.test_format = lit.formats.ShTest(True)
config.suffixes = [".cherry", ".ir", ".test"]
config.excludes = ["unit"]
config.test_source_root = os.path.join(config.source, "tests")
config.test_exec_root = os.path.join(config.build, "tests")
config.substitutions.append(("%cherry", os.path.join(config.build, "cherry")))
config.substitutions.append(("%filecheck", config.filecheck))
config.substitutions.append(("%root", config.source))
