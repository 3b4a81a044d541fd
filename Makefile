# The commands people type, in an activated environment.

.PHONY: install test slow lint types ci

install:  ## the package as it stands here, with all that tests and gates need
	pip install -e '.[dev]'

test:  ## the tests, in two processes
	python -m pytest -n 2

slow:  ## the tests that take longer than ten seconds each
	python -m pytest -n 2 --dist loadgroup -m slow

lint:
	ruff check .
	ruff format --check .
	lint-imports

types:
	mypy

ci:  ## all of it, in a fresh clone
	.ci/run
