"""Seeds each violation into a small tree and expects tidy.py to name it, and nothing else."""

import os
import tempfile
import unittest

import tidy

HEADER = '// A thing.\n#pragma once\n'


class TidyTest(unittest.TestCase):

    def violations(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, 'w', encoding='utf-8') as file:
                    file.write(text)
            return list(tidy.violations(root))

    def assert_one(self, path, text, what):
        found = self.violations({path: text})
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(path + ':'), found)
        self.assertIn(what, found[0])

    def assert_clean(self, path, text):
        self.assertEqual(self.violations({path: text}), [])

    def test_accepts_what_the_table_allows(self):
        self.assert_clean('engine/a.cc', '#include "model/module.h"\n#include "cache/block_pool.h"\n')
        self.assert_clean('model/a.cc', '#include "text/tokenizer.h"\n')
        self.assert_clean('services/x/a.cc', '#include <thread>\n#include "rpc/server.h"\n')
        self.assert_clean('tests/engine/a_test.cc', '#include "cli/commands.h"\n')

    def test_refuses_an_include_of_a_higher_layer(self):
        for path, included in [('base/a.cc', 'kernels/kernels.h'), ('kernels/a.cc', 'model/module.h'),
                               ('text/a.cc', 'model/module.h'),
                               ('text/a.cc', 'kernels/tensor.h'),
                               ('cache/a.cc', 'model/module.h'), ('orchestrator/a.cc', 'cache/key.h'),
                               ('engine/a.cc', 'orchestrator/routing.h'),
                               ('engine/a.cc', 'rpc/status.h'), ('rpc/a.cc', 'process/log.h'),
                               ('services/a.cc', 'cli/commands.h')]:
            with self.subTest(path=path, included=included):
                self.assert_one(path, f'#include "{included}"\n', 'may not include')

    def test_refuses_grpc_threads_clock_and_sockets_below_the_line(self):
        for included in ['<thread>', '<mutex>', '<condition_variable>', '<chrono>', '<sys/socket.h>',
                         '<grpcpp/server.h>', '"chorale/v1/common.pb.h"', '"absl/time/clock.h"',
                         '"absl/synchronization/mutex.h"', '<boost/asio/io_context.hpp>']:
            with self.subTest(included=included):
                self.assert_one('engine/a.cc', f'#include {included}\n', 'they are handed in')

    def test_lets_only_the_thread_pool_have_threads(self):
        self.assert_clean('kernels/thread_pool.cc', '#include <thread>\n#include <mutex>\n')
        self.assert_one('kernels/cpu.cc', '#include <thread>\n', 'they are handed in')

    def test_limits_the_files_of_a_folder(self):
        files = {f'cache/a{i}.cc': 'int a;\n' for i in range(24)}
        self.assertEqual(self.violations(files), [])
        found = self.violations({**files, 'cache/b.cc': 'int b;\n'})
        self.assertEqual(found, ['cache:0: 25 files; a folder has at most 24'])

    def test_limits_the_lines_of_files_and_headers(self):
        self.assert_clean('base/a.cc', 'int a;\n' * 500)
        self.assert_one('base/a.cc', 'int a;\n' * 501, '501 lines')
        self.assert_clean('base/a.h', HEADER + 'int a;\n' * 198)
        self.assert_one('base/a.h', HEADER + 'int a;\n' * 199, 'a header has at most')
        self.assert_one('training/a.py', 'a = 1\n' * 501, '501 lines')

    def test_wants_a_purpose_and_pragma_once_in_headers(self):
        self.assert_one('base/a.h', '#pragma once\n', 'opens with a comment')
        self.assert_one('base/a.h', '//\n#pragma once\n', 'opens with a comment')
        self.assert_one('base/a.h', '// A thing.\n', '#pragma once')

    def test_refuses_tabs_and_leftovers(self):
        self.assert_one('base/a.cc', '\tint a;\n', 'a tab')
        for word in ['TO' 'DO', 'FIX' 'ME', 'X' 'XX']:
            self.assert_one('base/a.cc', f'// {word}: more\n', 'a note to self')
            self.assert_one('docs/A.md', f'{word} write this\n', 'a note to self')
        self.assert_one('scripts/run', f'#!/bin/sh\n# {"TO" "DO"}\n', 'a note to self')
        self.assert_clean('base/a.cc', 'char name[] = "a-XXXXXX";\n')

    def test_refuses_names_that_say_nothing(self):
        self.assert_one('base/a.cc', 'class CacheManager {};\n', 'CacheManager')
        self.assert_one('base/a.cc', 'struct StringUtil {};\n', 'StringUtil')
        self.assert_one('base/a.cc', 'class PoolImpl {};\n', 'PoolImpl')
        self.assert_one('base/string_utils.cc', 'int a;\n', 'the file name')
        self.assert_clean('base/a.cc', 'struct Implementation {};\nstruct Utilization {};\n')

    def test_refuses_places_outside_the_repository(self):
        place = '../sha' 'red/data'
        self.assert_one('tests/a.cc', f'const char* kPath = "{place}";\n', 'outside the repository')
        self.assert_clean('cmake/a.cmake', f'set(ENVIRONMENT "CHORALE_SHARED_DATA={place}")\n')

    def test_leaves_build_folders_alone(self):
        self.assert_clean('build/dev/a.cc', '\tint a;\n')


if __name__ == '__main__':
    unittest.main()
