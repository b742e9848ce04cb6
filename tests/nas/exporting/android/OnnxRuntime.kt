package ai.onnxruntime

class OrtEnvironment {
    fun createSession(model: ByteArray): OrtSession = TODO("$model")

    companion object {
        fun getEnvironment(): OrtEnvironment = TODO()
    }
}

interface OnnxValue : AutoCloseable {
    val value: Any
}

abstract class OnnxTensor : OnnxValue {
    companion object {
        fun createTensor(environment: OrtEnvironment, data: java.nio.FloatBuffer, shape: LongArray): OnnxTensor =
            TODO("$environment $data $shape")
    }
}

abstract class OrtSession : AutoCloseable {
    abstract class Result : AutoCloseable {
        abstract operator fun get(index: Int): OnnxValue
    }

    abstract fun run(inputs: Map<String, OnnxTensor>): Result
}
