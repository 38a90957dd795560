# make demo   reduce a simulated night and say where to look
# make test   everything that can be checked on this machine
# make watch RAW=folder   reduce what arrives in a folder, again and again, until Ctrl-C
# make slurm   the environment .venv-slurm, for --profile profiles/slurm; make test-slurm tests it on a loopback Slurm
# make engines  the outside programs that some options use, from Debian's packages, where apt is there
# make bench  speed against the plain recipe, ccdproc and Siril; BENCH="--pixels 2048 --lights 20" for less of it
# make lock   renew envs/requirements*.txt from the .in files

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo watch test slurm test-slurm lint docs engines bench lock clean

demo: .venv/run
	$(BIN)/snakemake simulate --cores all --quiet all --config results_dir=demo
	$(BIN)/snakemake --cores all --quiet host reason rules --config raw_dir=demo/simulated/raw results_dir=demo

RESULTS ?= results
EVERY ?= 60
PASSES ?= 100000

# ARGS: what else snakemake is to know, such as --configfile my.yaml
watch: .venv/run
	@test -n "$(RAW)" || { echo "make watch RAW=folder [RESULTS=results] [EVERY=60] [ARGS='--configfile my.yaml']"; exit 2; }
	@for pass in $$(seq $(PASSES)); do \
		test $$pass = 1 || sleep $(EVERY); \
		$(BIN)/snakemake --cores all --quiet host reason rules --config 'raw_dir=$(RAW)' 'results_dir=$(RESULTS)' \
			settle=20 $(ARGS) || echo "this pass failed; the next one follows in $(EVERY) s"; \
	done

test: .venv/test lint
	$(BIN)/pytest -n auto --dist loadfile -m 'not slurm'

slurm: .venv-slurm/run

test-slurm: .venv-slurm/test
	.venv-slurm/bin/pytest -m slurm

lint: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

docs: .venv/run
	$(BIN)/python -m nightflow.reference config/README.md

engines:
	@if command -v apt-get >/dev/null; then \
		apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends $(ENGINES); \
	else echo "make engines needs apt-get (Debian, Ubuntu); install these by hand: $(ENGINES)"; fi

ENGINES := chromium source-extractor scamp swarp astrometry.net astrometry-data-tycho2-07 astrometry-data-tycho2-08 \
	astrometry-data-tycho2-09 astrometry-data-tycho2-10-19

.venv/run: envs/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# With the plugin installed and no Slurm up every start of snakemake takes 10 s longer: it has an environment of its own.
.venv-slurm/run: envs/requirements.txt envs/requirements-slurm.txt pyproject.toml
	$(PYTHON) -m venv .venv-slurm
	.venv-slurm/bin/python -m pip install --quiet --require-hashes -r envs/requirements.txt -r envs/requirements-slurm.txt
	.venv-slurm/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv-slurm/test: .venv-slurm/run envs/requirements-test.txt
	.venv-slurm/bin/python -m pip install --quiet --require-hashes -r envs/requirements-test.txt
	touch $@

.venv/test: .venv/run envs/requirements-test.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r envs/requirements-test.txt
	touch $@

LOCK := .venv/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

bench: .venv/run
	$(BIN)/python benchmarks/speed.py $(BENCH)

lock: .venv/run
	$(BIN)/python -m pip install --quiet pip-tools
	cd envs && ../$(LOCK) -o requirements.txt requirements.in
	cd envs && ../$(LOCK) -o requirements-test.txt requirements-test.in
	cd envs && ../$(LOCK) -o requirements-slurm.txt requirements-slurm.in

clean:
	rm -rf .venv .venv-slurm demo
