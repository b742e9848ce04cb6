package org.pytorch.executorch

abstract class Tensor {
    abstract val dataAsFloatArray: FloatArray

    companion object {
        fun fromBlob(data: FloatArray, shape: LongArray): Tensor = TODO("$data $shape")
    }
}

abstract class EValue {
    abstract fun toTensor(): Tensor

    companion object {
        fun from(tensor: Tensor): EValue = TODO("$tensor")
    }
}

abstract class Module : java.io.Closeable {
    abstract fun forward(vararg inputs: EValue): Array<EValue>

    abstract fun destroy()

    companion object {
        fun load(modelPath: String?, loadMode: Int = 0, numThreads: Int = 0): Module =
            TODO("$modelPath $loadMode $numThreads")
    }
}
