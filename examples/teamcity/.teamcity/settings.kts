import jetbrains.buildServer.configs.kotlin.*
import jetbrains.buildServer.configs.kotlin.buildSteps.script

version = "2024.03"

project {
    buildType(HotPaths)
}

/** The hot paths of each build, compared with the first parent of its commit. */
object HotPaths : BuildType({
    name = "Hot paths"
    artifactRules = ".ci-flame/report => ci-flame"

    vcs {
        root(DslContext.settingsRoot)
    }

    steps {
        script {
            name = "Compare hot paths with the base commit"
            scriptContent = "sh .teamcity/hot-paths.sh"
            dockerImage = "python:3.12"
            // What the eBPF collector needs in a container.
            dockerRunParameters = "--user root --cap-add BPF --cap-add PERFMON --cap-add SYS_PTRACE"
        }
    }

    failureConditions {
        executionTimeoutMin = 30
    }
})
