"""The repository tests itself: layers, sizes, headers, names and leftovers.

Usage: tidy.py ROOT. Prints one line for each violation and exits with 1 if there is any. The rules
are the tables below; CONTRIBUTING.md says what they are for.
"""

import collections
import os
import re
import sys

# What each layer may include, besides itself. The longest prefix of a file's folder decides.
# Layers above the double line of docs/ARCHITECTURE.md may use gRPC, threads and the clock.
THINKING = {
    'base': [],
    'kernels': ['base'],
    'text/jinja': ['base'],
    'text': ['base', 'text/jinja'],
    'model': ['base', 'kernels', 'text'],
    'cache': ['base', 'kernels'],
    'engine': ['base', 'kernels', 'cache', 'model', 'text'],
    'orchestrator': ['base'],
    'api': ['base', 'cache', 'engine', 'model', 'text', 'orchestrator'],
}
SERVING = {
    'process': ['base'],
    'rpc': [*THINKING],
    'net': ['base', 'process'],
    'services': [*THINKING, 'process', 'rpc', 'net'],
    'bench': [*THINKING, 'process', 'rpc', 'net', 'services'],
    'cli': [*THINKING, 'process', 'rpc', 'services', 'bench'],
}
LAYERS = {**THINKING, **SERVING}

# Below the double line: no gRPC, no threads, no clock, no sockets.
FORBIDDEN_BELOW = re.compile(
    r'^(grpc|grpcpp/.*|grpc/.*|chorale/v1/.*|google/protobuf/.*'
    r'|thread|mutex|shared_mutex|condition_variable|future|semaphore|barrier|latch|stop_token'
    r'|pthread\.h|absl/synchronization/.*'
    r'|chrono|ctime|time\.h|sys/time\.h|absl/time/clock\.h'
    r'|sys/socket\.h|sys/un\.h|netdb\.h|netinet/.*|arpa/.*|boost/(asio|beast).*|hiredis/.*)$')
# The one place below the line that has threads.
THREADS_LIVE_IN = re.compile(r'^kernels/thread_pool\.(h|cc)$')

# Of one folder: what a reader takes in at a glance.
SOURCES_MAX = 24
SOURCES = ('.h', '.cc', '.inc', '.cu', '.cuh', '.py')

LINES_MAX = 500
HEADER_LINES_MAX = 200

CODE = ('.h', '.cc', '.inc', '.c', '.cu', '.cuh', '.proto', '.py', '.sh', '.cmake', 'CMakeLists.txt')
TEXT = (*CODE, '.md', '.yaml', '.yml', '.clang-format', '.clang-tidy')
SKIPPED_FOLDERS = {'build', '.git', '.chorale', '.cache', '__pycache__', 'node_modules'}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
LEFTOVER = re.compile(r'\b(TO' r'DO|FIX' r'ME|X' r'XX)\b')
VAGUE_CLASS = re.compile(r'\b(?:class|struct)\s+(\w*(?:Manager|Helper|Util|Utils|Impl)(?![a-z])\w*)')
VAGUE_FILE = re.compile(r'(^|[_-])(manager|helper|util|impl)s?([_.-]|$)')
OUTSIDE = re.compile(r'\.\./sha' r'red\b|/wo' r'rk/')
OUTSIDE_ALLOWED = 'CHORALE_SHARED_DATA'


def layer_of(path):
    """The layer a path of the repository belongs to, or None."""
    fitting = [layer for layer in LAYERS if path.startswith(layer + '/')]
    return max(fitting, key=len) if fitting else None


def check_includes(path, lines):
    layer = layer_of(path)
    if layer is None:
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        included = match.group(1)
        target = layer_of(included)
        if target is not None and target != layer and target not in LAYERS[layer]:
            yield number, f'{layer}/ may not include {target}/ ("{included}")'
        if (layer in THINKING and FORBIDDEN_BELOW.match(included)
                and not THREADS_LIVE_IN.match(path)):
            yield number, (f'{layer}/ has no gRPC, threads, clock or sockets ("{included}"): '
                           'they are handed in')


def check_size(path, lines):
    if path.endswith(CODE) and len(lines) > LINES_MAX:
        yield LINES_MAX + 1, f'{len(lines)} lines; a file has at most {LINES_MAX}'
    if path.endswith('.h') and len(lines) > HEADER_LINES_MAX:
        yield HEADER_LINES_MAX + 1, f'{len(lines)} lines; a header has at most {HEADER_LINES_MAX}'


def check_header(path, lines):
    if not path.endswith('.h'):
        return
    if not lines or not re.match(r'(//|/\*)\s*\S', lines[0]):
        yield 1, 'a header opens with a comment that says what it is for'
    if '#pragma once' not in lines:
        yield 1, 'a header has #pragma once'


def check_text(path, lines):
    for number, line in enumerate(lines, 1):
        if '\t' in line:
            yield number, 'a tab; indent with spaces'
        if LEFTOVER.search(line):
            yield number, 'a note to self; do it, or write an issue'
        if OUTSIDE.search(line) and OUTSIDE_ALLOWED not in line:
            yield number, f'names a place outside the repository; data comes by {OUTSIDE_ALLOWED}'


def check_names(path, lines):
    if VAGUE_FILE.search(os.path.basename(path)):
        yield 1, 'the file name says nothing: name the thing itself'
    for number, line in enumerate(lines, 1):
        match = VAGUE_CLASS.search(line) if path.endswith(('.h', '.cc', '.cu')) else None
        if match:
            yield number, f'{match.group(1)} says nothing: name the thing itself'


CHECKS = (check_includes, check_size, check_header, check_text, check_names)


def text_files(root):
    """Paths of the files to check, relative to the root, in order."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders
                            if f not in SKIPPED_FOLDERS and not f.startswith('cmake-build'))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.endswith(TEXT) or is_script(path):
                yield os.path.relpath(path, root)


def is_script(path):
    if '.' in os.path.basename(path) or os.path.islink(path):
        return False
    with open(path, 'rb') as file:
        return file.read(2) == b'#!'


def check_rooms(paths):
    rooms = collections.Counter(os.path.dirname(path) for path in paths if path.endswith(SOURCES))
    for room, files in sorted(rooms.items()):
        if files > SOURCES_MAX:
            yield f'{room}:0: {files} files; a folder has at most {SOURCES_MAX}'


def violations(root):
    """Lines `path:number: what` for everything under `root` that breaks a rule."""
    paths = list(text_files(root))
    yield from check_rooms(paths)
    for path in paths:
        with open(os.path.join(root, path), encoding='utf-8', errors='replace') as file:
            lines = file.read().splitlines()
        for check in CHECKS:
            for number, what in check(path, lines):
                yield f'{path}:{number}: {what}'


def main():
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit('usage: tidy.py ROOT')
    found = list(violations(sys.argv[1]))
    for line in found:
        print(line)
    print(f'{len(found)} violations in {sum(1 for _ in text_files(sys.argv[1]))} files')
    sys.exit(1 if found else 0)


if __name__ == '__main__':
    main()
