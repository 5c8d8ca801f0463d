#include "services/worker/worker_flags.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_format.h"
#include "process/named_folder.h"

namespace chorale {
namespace {

NamedFolder Named(const std::string& flag, const std::string& text) {
  absl::StatusOr<NamedFolder> parsed = ParseNamedFolder(flag, text);
  if (!parsed.ok()) throw CLI::ValidationError(std::string(parsed.status().message()));
  return *std::move(parsed);
}

void AddModel(ModelSpec model, CatalogSpec& catalog) {
  const auto same_name = [&](const ModelSpec& other) { return other.name == model.name; };
  if (std::any_of(catalog.models.begin(), catalog.models.end(), same_name)) {
    throw CLI::ValidationError(
        absl::StrFormat("model '%s': the name is taken, choose another", model.name));
  }
  catalog.models.push_back(std::move(model));
}

// $XDG_CACHE_HOME/chorale, or ~/.cache/chorale; empty when there is no home.
std::string DefaultCacheDir() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::string(cache) + "/chorale";
  }
  const char* home = std::getenv("HOME");
  return home != nullptr && *home != '\0' ? std::string(home) + "/.cache/chorale" : "";
}

// --models, or --model with --adapter.
void AddModelFlags(CLI::App& app, CatalogSpec& catalog, bool required) {
  CLI::Option_group* models = app.add_option_group("Models");
  models->require_option(required ? 1 : 0, 1);
  models->add_option_function<std::string>(
      "--models",
      [&catalog](const std::string& path) {
        absl::StatusOr<CatalogSpec> read = ReadCatalog(path);
        if (!read.ok()) throw CLI::ValidationError(std::string(read.status().message()));
        catalog = *std::move(read);
      },
      "a chorale.yaml, or the folder that holds one");
  CLI::Option* model = models->add_option_function<std::string>(
      "--model",
      [&catalog](const std::string& text) {
        NamedFolder named = Named("--model", text);
        catalog.base = std::move(named.folder);
        AddModel({.name = std::move(named.name)}, catalog);
      },
      "NAME=FOLDER of a Hugging Face checkpoint");
  app.add_option_function<std::vector<std::string>>(
         "--adapter",
         [&catalog](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) {
             NamedFolder named = Named("--adapter", text);
             ModuleSpec module{.name = named.name, .adapter = std::move(named.folder)};
             AddModel({.name = std::move(named.name), .module = std::move(module)}, catalog);
           }
         },
         "NAME=FOLDER of a PEFT adapter for --model; repeatable")
      ->needs(model);
}

}  // namespace

void AddWorkerFlags(CLI::App& app, WorkerOptions& options, bool model_required) {
  AddModelFlags(app, options.catalog, model_required);
  app.add_option("--kernels", options.kernels, "cpu, reference, or a full name")
      ->capture_default_str();
  app.add_option("--dtype", options.dtype, "weights and K/V: auto, f32 or bf16")
      ->capture_default_str();
  app.add_option(
         "--kv", options.kv,
         "keys and values: exact, or int8: rounded to 8 bits where they are written, so "
         "that they travel and are stored in half the bytes or less; the same on all workers")
      ->capture_default_str();
  options.cache_dir = DefaultCacheDir();
  app.add_option("--cache-dir", options.cache_dir,
                 "digests of weights are kept here; empty: computed at every start")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "compute threads; 0: one for every processor")
      ->check(CLI::Range(0, 1024));
  CLI::Option* blocks =
      app.add_option("--blocks", options.engine.blocks, "K/V blocks of 16 tokens; 0: by --kv-mib")
          ->check(CLI::Range(0, 1 << 26));
  app.add_option("--kv-mib", options.kv_mib, "memory for K/V blocks; 0: 512 MiB")
      ->check(CLI::Range(0, 1 << 30))
      ->excludes(blocks);
  app.add_flag("--shared-memory,!--no-shared-memory", options.shared_memory,
               "let workers on this host read blocks where they lie");
  app.add_option("--step-tokens", options.engine.step_tokens_max, "rows of one batch")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--chunk-tokens", options.engine.chunk_tokens_max, "of one prompt in one batch")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--sequences", options.engine.sequences_max, "running at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--waiting", options.engine.waiting_max, "queued; more are refused")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
}

}  // namespace chorale
