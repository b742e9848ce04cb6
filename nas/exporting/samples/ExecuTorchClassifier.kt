package classifier

import android.content.Context
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

private const val MODEL = "model.pte"

/** By ExecuTorch, in the version that the file was written with: README.md says which. */
class ExecuTorchClassifier(context: Context, asset: String = MODEL) : Classifier(context) {
    private val module = Module.load(copied(context, asset))

    override fun logits(image: FloatArray): FloatArray =
        module.forward(EValue.from(Tensor.fromBlob(image, SHAPE)))[0].toTensor().dataAsFloatArray

    override fun close() = module.destroy()
}

/** The path of a copy of the asset, which is no file itself: ExecuTorch opens files only. */
private fun copied(context: Context, asset: String): String {
    val file = File(context.filesDir, asset)
    context.assets.open(asset).use { from -> file.outputStream().use { from.copyTo(it) } }
    return file.path
}
