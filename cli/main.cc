// chorale: the command line. Starts and ends clusters on this machine, shows them, and talks to
// their models.
#include <csignal>
#include <exception>

#include <CLI/CLI.hpp>

#include "cli/commands.h"

int main(int argc, char** argv) {
  using namespace chorale::cli;
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("chorale: serves many fine-tuned language models as one cluster", "chorale");
  app.footer(
      "Example:\n"
      "  chorale up\n"
      "  chorale generate --prompt 'def fibonacci(n):' --max-tokens 48\n"
      "  chorale down\n"
      "`chorale COMMAND --help` says more.");
  app.set_version_flag("--version", "chorale " CHORALE_VERSION);
  app.require_subcommand(1);
  Command chosen;
  AddUp(app, chosen);
  AddDown(app, chosen);
  AddStatus(app, chosen);
  AddCache(app, chosen);
  AddModels(app, chosen);
  AddGenerate(app, chosen);
  AddChat(app, chosen);
  AddRun(app, chosen);
  AddDemo(app, chosen);
  AddConvert(app, chosen);
  AddBench(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitBadConfiguration;
  }
  return chosen();
}
