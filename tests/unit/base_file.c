// Files: reading, mapping, and atomic replacement under failures and kills.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

typedef struct Fixture {
    Arena *arena;
    Diagnostics *diagnostics;
    char *folder;
} Fixture;

static int set_up(void **state) {
    Fixture *fixture = calloc(1, sizeof *fixture);
    fixture->arena = arena_create();
    fixture->diagnostics = diagnostics_create(fixture->arena);
    fixture->folder = arena_format(fixture->arena, "/tmp/cherry-file-XXXXXX");
    *state = fixture;
    return mkdtemp(fixture->folder) ? 0 : -1;
}

static int tear_down(void **state) {
    Fixture *fixture = *state;
    char *command = arena_format(fixture->arena, "rm -rf '%s'", fixture->folder);
    int status = system(command);
    arena_destroy(fixture->arena);
    free(fixture);
    return status;
}

static const char *inside(Fixture *fixture, const char *name) {
    return arena_format(fixture->arena, "%s/%s", fixture->folder, name);
}

// Entries of the folder besides . and ..
static int count_entries(const char *folder) {
    int count = 0;
    DIR *stream = opendir(folder);
    for (struct dirent *entry; (entry = readdir(stream));) count += entry->d_name[0] != '.';
    closedir(stream);
    return count;
}

static const char *last_error(Fixture *fixture) {
    size_t count = diagnostics_count(fixture->diagnostics);
    return count ? diagnostics_message(fixture->diagnostics, count - 1)->text : "";
}

static bool replace(Diagnostics *diagnostics, const char *path, const char *text) {
    FileWriter *writer = file_create(diagnostics, path);
    if (!writer) return false;
    file_write(writer, text, strlen(text));
    return file_commit(writer);
}

static void expect_text(Fixture *fixture, const char *path, const char *text) {
    size_t length = 0;
    char *read = file_read(fixture->arena, fixture->diagnostics, path, &length);
    assert_non_null(read);
    assert_string_equal(read, text);
    assert_int_equal(length, strlen(text));
}

static void test_replace(void **state) {
    Fixture *fixture = *state;
    const char *path = inside(fixture, "a");
    assert_true(replace(fixture->diagnostics, path, "one"));
    expect_text(fixture, path, "one");
    assert_true(replace(fixture->diagnostics, path, "two two"));
    expect_text(fixture, path, "two two");

    FileWriter *writer = file_create(fixture->diagnostics, path);
    assert_true(file_write(writer, "three", 5));
    expect_text(fixture, path, "two two");
    assert_int_equal(count_entries(fixture->folder), 2);
    file_abandon(writer);
    expect_text(fixture, path, "two two");
    assert_int_equal(count_entries(fixture->folder), 1);

    assert_int_equal(symlink("a", inside(fixture, "link")), 0);
    assert_true(replace(fixture->diagnostics, inside(fixture, "link"), "through"));
    expect_text(fixture, path, "through");
    struct stat status;
    assert_int_equal(lstat(inside(fixture, "link"), &status), 0);
    assert_true(S_ISLNK(status.st_mode));
}

static void test_map(void **state) {
    Fixture *fixture = *state;
    FileMap map;
    assert_true(replace(fixture->diagnostics, inside(fixture, "a"), "hello"));
    assert_true(file_map(fixture->diagnostics, inside(fixture, "a"), &map));
    assert_int_equal(map.bytes, 5);
    assert_memory_equal(map.data, "hello", 5);
    file_unmap(&map);
    assert_true(replace(fixture->diagnostics, inside(fixture, "empty"), ""));
    assert_true(file_map(fixture->diagnostics, inside(fixture, "empty"), &map));
    assert_null(map.data);
    file_unmap(&map);
}

static void test_reading_errors(void **state) {
    Fixture *fixture = *state;
    FileMap map;
    assert_false(file_map(fixture->diagnostics, inside(fixture, "missing"), &map));
    assert_non_null(strstr(last_error(fixture), "missing: No such file"));
    assert_null(file_read(fixture->arena, fixture->diagnostics, fixture->folder, NULL));
    assert_non_null(strstr(last_error(fixture), "it is a folder"));
    assert_int_equal(mkfifo(inside(fixture, "pipe"), 0600), 0);
    assert_null(file_read(fixture->arena, fixture->diagnostics, inside(fixture, "pipe"), NULL));
    assert_non_null(strstr(last_error(fixture), "not a regular file"));
}

static void test_writing_errors(void **state) {
    Fixture *fixture = *state;
    assert_null(file_create(fixture->diagnostics, inside(fixture, "no/such/folder")));
    assert_non_null(strstr(last_error(fixture), "no/such/folder: No such file"));
    assert_null(file_create(fixture->diagnostics, "/dev/null"));
    assert_non_null(strstr(last_error(fixture), "/dev/null: it is not a regular file"));
    assert_null(file_create(fixture->diagnostics, fixture->folder));
    assert_non_null(strstr(last_error(fixture), "it is a folder"));
    assert_int_equal(count_entries(fixture->folder), 0);
}

// Runs `body` in a child; its status is what body returns.
static int in_child(Fixture *fixture, int (*body)(Fixture *fixture)) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) _exit(body(fixture));
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static int write_unwritable(Fixture *fixture) {
    if (geteuid() == 0 && setuid(65534) != 0) return 1;
    if (replace(fixture->diagnostics, inside(fixture, "a"), "two")) return 2;
    if (!strstr(last_error(fixture), "/a: Permission denied")) return 3;
    return 0;
}

static void test_unwritable_folder(void **state) {
    Fixture *fixture = *state;
    assert_true(replace(fixture->diagnostics, inside(fixture, "a"), "one"));
    assert_int_equal(chmod(fixture->folder, 0555), 0);
    assert_int_equal(in_child(fixture, write_unwritable), 0);
    assert_int_equal(chmod(fixture->folder, 0755), 0);
    expect_text(fixture, inside(fixture, "a"), "one");
    assert_int_equal(count_entries(fixture->folder), 1);
}

// Writes more than fits; checks the message for `reason`.
static int write_too_much(Fixture *fixture, const char *path, const char *reason) {
    static const char block[1 << 16];
    FileWriter *writer = file_create(fixture->diagnostics, path);
    if (!writer) return 1;
    bool good = true;
    for (int i = 0; i < 64 && good; i++) good = file_write(writer, block, sizeof block);
    if (good) return 2;
    if (file_write(writer, block, 1) || file_commit(writer)) return 3;
    if (!strstr(last_error(fixture), path) || !strstr(last_error(fixture), reason)) return 4;
    return diagnostics_error_count(fixture->diagnostics) == 1 ? 0 : 5;
}

static int write_past_limit(Fixture *fixture) {
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 100000, .rlim_max = 100000});
    return write_too_much(fixture, inside(fixture, "a"), "File too large");
}

static int write_to_full_disk(Fixture *fixture) {
    return write_too_much(fixture, inside(fixture, "full/a"), "No space left on device");
}

static void test_size_limit(void **state) {
    Fixture *fixture = *state;
    assert_true(replace(fixture->diagnostics, inside(fixture, "a"), "one"));
    assert_int_equal(in_child(fixture, write_past_limit), 0);
    expect_text(fixture, inside(fixture, "a"), "one");
    assert_int_equal(count_entries(fixture->folder), 1);
}

static void test_full_disk(void **state) {
    Fixture *fixture = *state;
    const char *folder = inside(fixture, "full");
    assert_int_equal(mkdir(folder, 0755), 0);
    if (mount("tmpfs", folder, "tmpfs", 0, "size=1m") != 0) skip();  // only root may mount
    bool first = replace(fixture->diagnostics, inside(fixture, "full/a"), "one");
    int status = in_child(fixture, write_to_full_disk);
    int entries = count_entries(folder);
    FileMap map = {0};
    bool kept = file_map(fixture->diagnostics, inside(fixture, "full/a"), &map) && map.bytes == 3;
    file_unmap(&map);
    umount(folder);
    assert_true(first && kept);
    assert_int_equal(status, 0);
    assert_int_equal(entries, 1);
}

enum { VERSION_BYTES = 300000 };

// Replaces the file for ever; version v is VERSION_BYTES bytes of value v.
static int write_for_ever(Fixture *fixture) {
    static char block[VERSION_BYTES];
    for (int version = 0;; version = (version + 1) % 100) {
        memset(block, version, sizeof block);
        FileWriter *writer = file_create(fixture->diagnostics, inside(fixture, "a"));
        for (int i = 0; i < 10; i++) file_write(writer, block + i, VERSION_BYTES / 10);
        if (!file_commit(writer)) return 1;
    }
}

static void test_kill(void **state) {
    Fixture *fixture = *state;
    bool written = false;
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        if (child == 0) _exit(write_for_ever(fixture));
        nanosleep(&(struct timespec){.tv_nsec = 5000000 + round * 1370000}, NULL);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        written |= file_exists(inside(fixture, "a"));  // once there, always there
        if (!written) continue;
        FileMap map;
        assert_true(file_map(fixture->diagnostics, inside(fixture, "a"), &map));
        assert_int_equal(map.bytes, VERSION_BYTES);
        for (size_t i = 1; i < map.bytes; i++) assert_int_equal(map.data[i], map.data[0]);
        file_unmap(&map);
    }
    // What the killed writers left is cleared by the next one.
    assert_true(replace(fixture->diagnostics, inside(fixture, "a"), "end"));
    assert_int_equal(count_entries(fixture->folder), 1);
}

static void test_live_writer_is_left_alone(void **state) {
    Fixture *fixture = *state;
    FileWriter *first = file_create(fixture->diagnostics, inside(fixture, "a"));
    assert_non_null(first);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) _exit(replace(fixture->diagnostics, inside(fixture, "a"), "child") ? 0 : 1);
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    expect_text(fixture, inside(fixture, "a"), "child");
    assert_null(file_create(fixture->diagnostics, inside(fixture, "a")));
    assert_non_null(strstr(last_error(fixture), "busy"));
    assert_true(file_write(first, "parent", 6));
    assert_true(file_commit(first));
    expect_text(fixture, inside(fixture, "a"), "parent");
}

static void test_folders(void **state) {
    Fixture *fixture = *state;
    assert_true(file_make_folder(fixture->diagnostics, inside(fixture, "x/y/z")));
    assert_true(file_make_folder(fixture->diagnostics, inside(fixture, "x/y/z/")));
    assert_true(file_exists(inside(fixture, "x/y/z")));
    assert_true(replace(fixture->diagnostics, inside(fixture, "x/file"), ""));
    assert_false(file_make_folder(fixture->diagnostics, inside(fixture, "x/file/z")));
    assert_non_null(strstr(last_error(fixture), "x/file"));
    assert_string_equal(file_folder(fixture->arena, "a/b/c.cherry"), "a/b");
    assert_string_equal(file_folder(fixture->arena, "c"), ".");
    assert_string_equal(file_folder(fixture->arena, "/c"), "/");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_replace),    TEST(test_map),       TEST(test_reading_errors), TEST(test_writing_errors),
        TEST(test_size_limit), TEST(test_full_disk), TEST(test_unwritable_folder), TEST(test_kill),
        TEST(test_live_writer_is_left_alone), TEST(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
